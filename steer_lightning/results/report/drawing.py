"""Pictures are an extra: what to say where matplotlib is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def drawn(draw: Callable[[Path], Path], folder: Path) -> str:
    """Draws a picture if that can be done.

    Args:
        draw: Takes a folder and returns the picture's path.
        folder: With the numbers.

    Returns:
        The path, or how to get what is missing.
    """
    try:
        return str(draw(folder))
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return 'not drawn: pip install "steer-lightning[report]" for matplotlib'
