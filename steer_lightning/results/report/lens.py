"""The pictures of lens results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer_lightning.results.report.drawing import saved, ticks
from steer_lightning.system.printable import quoted
from steer_lightning.system.run_files import BETWEEN, BETWEEN_PICTURE, LENS, LENS_PICTURE

NUMBERED = 8
"""Largest number of rows or columns of a heat map with numbers in its cells."""
LEAST_CHANGE = 1e-3
"""Smallest change of a probability that is drawn; a smaller one would not be visible."""


def draw_lens(folder: Path) -> Path:
    """Draws norms, singular values, cosines between layers and the first token to `lens.png`.

    Args:
        folder: Folder with `lens.json`.

    Returns:
        The path of the picture.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    found = json.loads((folder / LENS).read_text())
    figure = Figure(figsize=(11, 8.5), dpi=120, layout="constrained")
    (norms, values), (angles, tokens) = figure.subplots(2, 2)
    names = [str(layer["layer"]) for layer in found["layers"]]
    _norms(norms, found["layers"])
    values.bar(range(1, 1 + len(found["singular_values"])), found["singular_values"])
    values.set_title(f"singular values, stable rank {found['stable_rank']:.2f}", loc="left")
    values.xaxis.get_major_locator().set_params(integer=True)
    _heat_map(figure, angles, names, names, found["cosines"], "cosines between layers")
    _first_token(tokens, found["first_token"])
    return saved(figure, folder / LENS_PICTURE)


def draw_between(folder: Path) -> Path:
    """Draws the cosines between the vectors of each pair of files to `between.png`.

    Args:
        folder: Folder with `between.json`.

    Returns:
        The path of the picture.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    pairs = json.loads((folder / BETWEEN).read_text())["pairs"]
    figure = Figure(figsize=(5.5, 5 * len(pairs)), dpi=120, layout="constrained")
    for axes, pair in zip(figure.subplots(len(pairs), squeeze=False)[:, 0], pairs, strict=True):
        rows, columns = ([str(x) for x in pair[f"layers_{side}"]] for side in ("a", "b"))
        _heat_map(figure, axes, rows, columns, pair["cosines"], "cosines between layers")
        axes.set_ylabel(pair["a"])
        axes.set_xlabel(pair["b"])
    return saved(figure, folder / BETWEEN_PICTURE)


def _norms(axes: Any, layers: Sequence[dict[str, Any]]) -> None:
    """Draws the norms as bars and, if known, their ratio to the norm of the stream as a line."""
    places = range(len(layers))
    axes.bar(places, [layer["norm"] for layer in layers])
    ticks(axes.set_xticks, [str(layer["layer"]) for layer in layers])
    axes.set_xlabel("layer")
    axes.set_title("norms", loc="left")
    if layers[0]["norm_over_stream"] is not None:
        beside = axes.twinx()
        relative = [layer["norm_over_stream"] for layer in layers]
        beside.plot(places, relative, color="tab:orange", marker="o")
        beside.set_ylim(bottom=0)
        beside.set_ylabel("norm / typical norm of the stream", color="tab:orange")


def _heat_map(
    figure: Any,
    axes: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    title: str,
) -> None:
    image = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
    ticks(axes.set_xticks, columns)
    ticks(axes.set_yticks, rows)
    axes.set_title(title, loc="left")
    figure.colorbar(image, ax=axes)
    if max(len(rows), len(columns)) > NUMBERED:
        return
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            color = "white" if abs(value) > 0.6 else "black"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=color)


def _first_token(axes: Any, found: dict[str, Any] | None) -> None:
    """Draws token probabilities without and with the vectors, from largest rise to largest fall."""
    axes.set_title("first generated token", loc="left")
    if found is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not measured: no prompts were given", ha="center", va="center")
        return
    rows = [*found["up"], *reversed(found["down"])]
    rows = [row for row in rows if abs(row[1] - row[2]) >= LEAST_CHANGE]
    places = range(len(rows))
    axes.barh(
        [y - 0.2 for y in places], [row[1] for row in rows], 0.4, label="base", color="tab:gray"
    )
    axes.barh([y + 0.2 for y in places], [row[2] for row in rows], 0.4, label="steered")
    axes.set_yticks(places, [_in_font(quoted(row[0])) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"probability, mean over {found['num_prompts']} prompts")
    axes.legend(loc="best", frameon=False)


def _in_font(text: str) -> str:
    """Replaces characters that the font lacks by their codes, since empty boxes say nothing."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return "".join(
        c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in text
    )
