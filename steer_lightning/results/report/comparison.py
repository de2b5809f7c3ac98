"""The picture that compares the arms of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steer_lightning.results.report.drawing import saved
from steer_lightning.system.run_files import COMPARISON, RESULTS


def draw_comparison(folder: Path) -> Path:
    """Draws the accuracy of each arm on each benchmark, with intervals, to `comparison.png`.

    Args:
        folder: Folder of an evaluation, with `results.json`.

    Returns:
        The path of the picture.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows = json.loads((folder / RESULTS).read_text())["rows"]
    rows = [row for row in rows if row["metric"].startswith("avg@") and row["value"] is not None]
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    height = 1.2 + max(1, len(benchmarks)) * (0.5 + 0.3 * len(arms))
    figure = Figure(figsize=(8, height), dpi=120, layout="constrained")
    panels = figure.subplots(max(1, len(benchmarks)), squeeze=False, sharex=True)
    for benchmark, axes in zip(benchmarks, panels[:, 0], strict=True):
        _panel(axes, [row for row in rows if row["benchmark"] == benchmark])
    panels[-1, 0].set_xlabel("accuracy, 95 % interval")
    return saved(figure, folder / COMPARISON)


def _panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draws a point with its interval for each arm, and a vertical line through the base's."""
    for place, row in enumerate(rows):
        low = row["value"] if row["low"] is None else row["low"]
        high = row["value"] if row["high"] is None else row["high"]
        error = [[row["value"] - low], [high - row["value"]]]
        color = "tab:gray" if row["arm"] == "base" else "tab:blue"
        axes.errorbar(row["value"], place, xerr=error, fmt="o", color=color, capsize=3)
        if row["arm"] == "base":
            axes.axvline(row["value"], color=color, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["arm"] for row in rows])
    axes.invert_yaxis()
    axes.margins(y=0.2)
    metrics = ", ".join(dict.fromkeys(row["metric"] for row in rows))
    axes.set_title(f"{rows[0]['benchmark']}, {metrics}", loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
