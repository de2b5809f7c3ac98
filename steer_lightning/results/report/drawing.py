"""Draws pictures; matplotlib, an extra, may be missing, and names may contain anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steer_lightning.system.extras import install_command
from steer_lightning.system.showing import reason
from steer_lightning.system.whole_files import written_aside

MAX_TICKS = 20
"""Largest number of ticks with names on an axis."""


def drawn(draw: Callable[[Path], Path], folder: Path) -> str:
    """Draws a picture, and reports a failure as text, since the numbers exist without a picture.

    Args:
        draw: Function that takes a folder and returns the path of the picture.
        folder: Folder with the numbers to draw.

    Returns:
        The path of the picture, or the reason why it is not drawn.
    """
    try:
        return str(draw(folder))
    except Exception as error:  # a picture is worth less than the numbers that it shows
        if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib":
            return f"not drawn: {install_command('report')} for matplotlib"
        return f"not drawn: {reason(error)}"


def ticks(place: Callable[..., Any], names: Sequence[str]) -> None:
    """Sets ticks with names, and leaves out some if there are too many to read."""
    step = -(-len(names) // MAX_TICKS)
    place(range(0, len(names), step), names[::step], fontsize=8)


def saved(figure: Any, path: Path) -> Path:
    """Writes a matplotlib figure as a PNG file, and returns the path.

    Dollar signs are literal: names of benchmarks, files and tokens are not formulas, and half a
    formula would be an error.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")
    return path
