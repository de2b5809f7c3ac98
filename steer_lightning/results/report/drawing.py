"""The drawing of pictures: matplotlib, an extra, may be missing, and names may hold anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steer_lightning.system.extras import install_command
from steer_lightning.system.showing import reason
from steer_lightning.system.whole_files import written_aside


def drawn(draw: Callable[[Path], Path], folder: Path) -> str:
    """Draws a picture; what goes wrong is told, since the numbers are there without it.

    Args:
        draw: Function that takes a folder and returns the path of the picture.
        folder: Folder with the numbers to draw.

    Returns:
        The path of the picture, or why it is not drawn.
    """
    try:
        return str(draw(folder))
    except Exception as error:  # a picture is worth less than what it is drawn of
        if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib":
            return f"not drawn: {install_command('report')} for matplotlib"
        return f"not drawn: {reason(error)}"


def saved(figure: Any, path: Path) -> Path:
    """Writes a figure of matplotlib as a PNG file, and returns the path.

    Dollar signs stand for themselves: names of benchmarks, files and tokens are no formulas, and
    half of one would be an error.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")
    return path
