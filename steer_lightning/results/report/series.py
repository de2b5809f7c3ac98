"""The metrics of a run by step, and curves with fewer points for pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.report.damage import damaged
from steer_lightning.system.run_files import METRICS

Series = dict[str, list[tuple[int, float]]]
"""Pairs (step, value) by metric, in the order of the steps."""

SMOOTHING = 5  # steps
STEP_SECONDS = "speed/step_seconds"
MOST_POINTS = 500
"""Largest number of points in a curve on a page; a screen has no space for more."""


def read_series(folder: Path) -> Series:
    """Reads `metrics.csv` from the folder of a run.

    A run that was killed may have written half of its last line, so a line without a line end is
    left out.

    Raises:
        ConfigError: If the file is damaged.
    """
    path = folder / METRICS
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, error) from error
    text = text[: text.rfind("\n") + 1]
    series: Series = {}
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if text and "step" not in (rows.fieldnames or ()):
            raise damaged(path, "Its first line names no column `step`")
        for row in rows:
            _add(series, row)
    except (TypeError, ValueError, csv.Error) as error:
        if isinstance(error, ConfigError):
            raise
        raise damaged(path, f"Line {rows.line_num} is not a line of metrics: {error}") from error
    return {name: sorted(points) for name, points in series.items()}


def _add(series: Series, row: dict[str, str | None]) -> None:
    step = int(row["step"] or "")
    for name, value in row.items():
        if name not in ("step", "epoch") and value:
            series.setdefault(name, []).append((step, float(value)))


def joined(stages: Sequence[Series]) -> Series:
    """Joins the series of an interrupted run's folders, oldest first.

    Steps of a folder that the next folder repeats are dropped: all from the first step of the next
    folder.
    """
    found: Series = {}
    for stage in stages:
        start = first_step(stage)
        found = {name: [(s, v) for s, v in points if s < start] for name, points in found.items()}
        for name, points in stage.items():
            found[name] = found.get(name, []) + points
    return {name: points for name, points in found.items() if points}


def first_step(series: Series) -> float:
    """Returns the first step of any metric, or infinity if there is none."""
    return min((points[0][0] for points in series.values()), default=math.inf)


def trailing_mean(values: Sequence[float], width: int = SMOOTHING) -> list[float]:
    """Returns for each value the mean of it and its predecessors, over at most `width` values."""
    return [
        sum(values[max(0, k - width + 1) : k + 1]) / min(k + 1, width) for k in range(len(values))
    ]


def clock_of(series: Series, most: int = MOST_POINTS) -> dict[str, list[float]] | None:
    """Adds up the durations of the steps; benchmarks and checkpoints are not part of them.

    A step that was not logged counts with the duration of the next step that was.

    Args:
        series: Metrics of a run, with `speed/step_seconds`.
        most: Largest number of steps for which the time is given.

    Returns:
        `steps`, some steps from the first to the last one, and `seconds`, the training time until
        the end of each; None if the durations are unknown.
    """
    points = [(k, value) for k, value in series.get(STEP_SECONDS, []) if math.isfinite(value)]
    if not points:
        return None
    steps = [step for step, _ in points]
    gaps = [after - before for before, after in pairwise([0, *steps])]
    seconds = list(accumulate(gap * value for gap, (_, value) in zip(gaps, points, strict=True)))
    every = -(-len(steps) // most)  # rounded up
    kept = sorted({*range(0, len(steps), every), len(steps) - 1})
    return {"steps": [steps[k] for k in kept], "seconds": _short([seconds[k] for k in kept])}


def as_curve(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> dict[str, Any]:
    """Makes a curve of each step or, for a long run, of mean and range of neighbouring steps.

    Args:
        points: Pairs (step, value) in order of the steps; values that are not finite are left out.
        most: Largest number of points in the curve.

    Returns:
        `width`, the number of steps in each point; `x`, the middle of those steps; `y`, the mean of
        their values; and for a width of 1 `smooth`, otherwise `low` and `high`, the smallest and
        the largest of their values.
    """
    points = [(step, value) for step, value in points if math.isfinite(value)]
    if not points:
        return {"width": 1, "x": [], "y": [], "smooth": []}
    first, last = points[0][0], points[-1][0]
    width = -(-(last - first + 1) // most)  # rounded up
    if width == 1:
        values = [value for _, value in points]
        smooth = trailing_mean(values)
        x = [step for step, _ in points]
        return {"width": 1, "x": x, "y": _short(values), "smooth": _short(smooth)}
    buckets: dict[int, list[float]] = {}
    for step, value in points:
        buckets.setdefault((step - first) // width, []).append(value)
    return {
        "width": width,
        "x": [first + k * width + (width - 1) / 2 for k in buckets],
        "y": _short([sum(found) / len(found) for found in buckets.values()]),
        "low": _short([min(found) for found in buckets.values()]),
        "high": _short([max(found) for found in buckets.values()]),
    }


def _short(values: Sequence[float]) -> list[float]:
    """Rounds to six digits, which are more than a picture can show."""
    return [float(f"{value:.6g}") for value in values]
