"""The picture of the dose: what each scale of some vectors gains, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steer_lightning.results.report.drawing import saved
from steer_lightning.system.run_files import DOSE, RESULTS

Record = dict[str, Any]
Point = tuple[float, Record]


def has_doses(side_effects: Record | None) -> bool:
    """Returns whether side effects are known of at least two scales of one result."""
    if side_effects is None or not side_effects["base_knows_it"]:
        return False
    return bool(_doses(side_effects["rows"]))


def draw_dose(folder: Path) -> Path:
    """Draws accuracy, KL to the base and perplexity of each scale to `dose.png`, with intervals.

    Args:
        folder: Folder of an evaluation, with `results.json`.

    Returns:
        The path of the picture.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    found = json.loads((folder / RESULTS).read_text())
    doses = _doses(found["side_effects"]["rows"])
    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    panels = figure.subplots(3, sharex=True)
    for name, points in doses.items():
        label = name if len(doses) > 1 else ""
        for benchmark, accuracies in _accuracies(found["rows"], points):
            told = ", ".join(part for part in (label, benchmark) if part)
            _line(panels[0], accuracies, ("value", "low", "high"), told, 100)
        for axes, key in zip(panels[1:], ("kl", "perplexity_ratio"), strict=True):
            _line(axes, points, (key, f"{key}_low", f"{key}_high"), label, 1)
    titles = ("right answers, %", "KL to the base, nats a token", "perplexity / that of the base")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
    panels[0].set_title("benefit, and what it costs on neutral text", loc="left", fontsize=10)
    panels[-1].set_xlabel("scale of the vectors; 0 is the base")
    return saved(figure, folder / DOSE)


def _doses(rows: Sequence[Record]) -> dict[str, list[Point]]:
    """Returns the scales of each result that has at least two, ascending, with their rows."""
    base = [row for row in rows if not row["result"] and row["scale"] == 0]
    found: dict[str, list[Point]] = {}
    for name in dict.fromkeys(row["result"] for row in rows if row["result"]):
        mine = [row for row in rows if row["result"] == name and row["kl"] is not None]
        if len(mine) > 1:
            points = [(row["scale"], row) for row in (*base, *mine)]
            found[name] = sorted(points, key=lambda point: point[0])
    return found


def _accuracies(
    rows: Sequence[Record], points: Sequence[Point]
) -> Iterator[tuple[str, list[Point]]]:
    """Yields each benchmark with the accuracy of each scale."""
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        by_arm = {
            row["arm"]: row
            for row in rows
            if row["benchmark"] == benchmark and row["metric"].startswith("avg@")
        }
        known = [(scale, by_arm[row["arm"]]) for scale, row in points if row["arm"] in by_arm]
        yield benchmark, [(scale, row) for scale, row in known if row["value"] is not None]


def _line(
    axes: Any, points: Sequence[Point], keys: tuple[str, str, str], label: str, factor: float
) -> None:
    """Draws values by scale, with intervals."""
    scales = [scale for scale, _ in points]
    value, low, high = ([row[key] for _, row in points] for key in keys)
    (line,) = axes.plot(scales, [factor * x for x in value], "o-", label=label or None)
    for scale, bottom, top in zip(scales, low, high, strict=True):
        if bottom is not None:
            axes.plot([scale] * 2, [factor * bottom, factor * top], color=line.get_color())
