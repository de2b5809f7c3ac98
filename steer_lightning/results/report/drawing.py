"""The drawing of pictures where matplotlib, which is an extra, may not be installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def drawn(draw: Callable[[Path], Path], folder: Path) -> str:
    """Draws a picture if matplotlib is installed.

    Args:
        draw: Function that takes a folder and returns the path of the picture.
        folder: Folder with the numbers to draw.

    Returns:
        The path of the picture, or a hint on how to install matplotlib.
    """
    try:
        return str(draw(folder))
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return 'not drawn: pip install "steer-lightning[report]" for matplotlib'
