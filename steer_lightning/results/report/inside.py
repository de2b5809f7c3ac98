"""The picture of what attention and MLPs make of the vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer_lightning.results.report.drawing import saved, ticks
from steer_lightning.system.run_files import INSIDE_PICTURE, LENS

Record = dict[str, Any]
NUMBERED = 60
"""Largest number of cells of a heat map with numbers in them."""


def draw_inside(folder: Path) -> Path:
    """Draws heat maps of the attention by layer and head, and the changes of the MLPs.

    Args:
        folder: Folder with a `lens.json` that has `inside`.

    Returns:
        The path of the picture, `inside.png`.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    found = json.loads((folder / LENS).read_text())["inside"]
    alone = [row for row in found["alone"] if row["attention"] is not None]
    figure = Figure(figsize=(11, 8.5), dpi=120, layout="constrained")
    (each, every), (own, total) = figure.subplots(2, 2)
    rows = [(f"{x['layer']}: {x['attention']['layer']}", x["attention"]) for x in alone]
    _heat_map(figure, each, rows, "each vector alone, in the next attention")
    each.set_ylabel("layer of the vector: of the attention")
    rows = [(str(x["layer"]), x) for x in found["together"]["attention"]]
    _heat_map(figure, every, rows, "all vectors, in each attention")
    every.set_ylabel("layer")
    _next_mlps(own, [row for row in found["alone"] if row["mlp"] is not None])
    _every_mlp(total, found["together"]["mlp"])
    return saved(figure, folder / INSIDE_PICTURE)


def _heat_map(figure: Any, axes: Any, rows: Sequence[tuple[str, Record]], title: str) -> None:
    """Draws the share of attention that has moved, by layer and head."""
    axes.set_title(f"{title}: attention moved, %", loc="left", fontsize=10)
    if not rows:
        _nothing(axes, "no attention can be seen")
        return
    width = max(len(entry["variation"]) for _, entry in rows)
    values = [
        [100 * x for x in entry["variation"]] + [float("nan")] * (width - len(entry["variation"]))
        for _, entry in rows
    ]
    image = axes.imshow(values, vmin=0, cmap="viridis", aspect="auto")
    ticks(axes.set_xticks, [str(k) for k in range(width)])
    ticks(axes.set_yticks, [name for name, _ in rows])
    axes.set_xlabel("head")
    figure.colorbar(image, ax=axes)
    if width * len(rows) > NUMBERED:
        return
    brightest = max(x for line in values for x in line if x == x)
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == value:  # heads that a layer lacks are NaN
                color = "black" if value > 0.6 * brightest else "white"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=color)


def _next_mlps(axes: Any, rows: Sequence[Record]) -> None:
    """Draws how much of each vector the next MLP adds again, or cancels."""
    axes.set_title("each vector alone, in the next MLP", loc="left", fontsize=10)
    rows = [row for row in rows if row["mlp"]["along"] is not None]
    if not rows:
        _nothing(axes, "no MLP can be compared with a vector")
        return
    places = range(len(rows))
    axes.bar(places, [row["mlp"]["along"] for row in rows], label="along the vector")
    sizes = [row["mlp"]["size"] for row in rows]
    axes.plot(places, sizes, "o", color="tab:orange", label="in any direction")
    axes.axhline(0, color="black", linewidth=0.8)
    ticks(axes.set_xticks, [str(row["layer"]) for row in rows])
    axes.set_xlabel("layer of the vector")
    axes.set_ylabel("added to the stream / vector")
    axes.legend(frameon=False)


def _every_mlp(axes: Any, rows: Sequence[Record]) -> None:
    axes.set_title("all vectors, in each MLP: output changed, %", loc="left", fontsize=10)
    if not rows:
        _nothing(axes, "no MLP can be seen")
        return
    axes.bar(range(len(rows)), [100 * row["relative"] for row in rows])
    ticks(axes.set_xticks, [str(row["layer"]) for row in rows])
    axes.set_xlabel("layer")


def _nothing(axes: Any, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center")
