"""The picture of pass@k against k: whether the curves of base and steered model cross."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer_lightning.results.report.drawing import saved
from steer_lightning.system.run_files import PASS_CURVE, RESULTS

Record = dict[str, Any]


def draw_pass_curve(folder: Path) -> Path:
    """Draws pass@k of each arm on each benchmark to `pass_at_k.png`, with bands for intervals.

    Args:
        folder: Folder of an evaluation, with `results.json`.

    Returns:
        The path of the picture.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    records = json.loads((folder / RESULTS).read_text())["capability"]
    benchmarks = list(dict.fromkeys(record["benchmark"] for record in records))
    figure = Figure(figsize=(8, 1 + 3.2 * len(benchmarks)), dpi=120, layout="constrained")
    panels = figure.subplots(len(benchmarks), squeeze=False)
    for benchmark, axes in zip(benchmarks, panels[:, 0], strict=True):
        _panel(axes, [record for record in records if record["benchmark"] == benchmark])
        axes.set_title(benchmark, loc="left", fontsize=10)
    panels[-1, 0].set_xlabel("k, number of samples")
    return saved(figure, folder / PASS_CURVE)


def _panel(axes: Any, records: Sequence[Record]) -> None:
    """Draws a curve for each arm, and a vertical line where it crosses that of the base."""
    for record in records:
        points = [point for point in record["points"] if point["value"] is not None]
        ks = [point["k"] for point in points]
        is_base = record["arm"] == "base"
        color = "tab:gray" if is_base else None
        values = [100 * point["value"] for point in points]
        (line,) = axes.plot(ks, values, "o-", color=color, label=record["arm"])
        banded = [point for point in points if point["low"] is not None]
        axes.fill_between(
            [point["k"] for point in banded],
            [100 * point["low"] for point in banded],
            [100 * point["high"] for point in banded],
            color=line.get_color(),
            alpha=0.2,
        )
        if record.get("crosses_at") is not None:
            axes.axvline(record["crosses_at"], color=line.get_color(), linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda k, _: f"{k:g}")
    axes.set_ylabel("pass@k, %, 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
