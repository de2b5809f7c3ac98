"""The curve of budgets: how accuracy grows with the tokens that are spent on thinking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_lightning.results.report.drawing import saved
from steer_lightning.system.run_files import BUDGET, RESULTS

Record = dict[str, Any]

FREE = "no budget"
"""What the point of an arm without a budget is called."""


def budget_curves(results: Mapping[str, Any]) -> dict[str, dict[str, list[Record]]]:
    """Returns the points of each curve, in the order of their tokens.

    Args:
        results: Content of `results.json`.

    Returns:
        By benchmark, and by the name of an arm: points with the `name` of the budget, and
        `tokens`, `accuracy` and the ends of their intervals, such as `tokens_low`. Empty without
        budgets.
    """
    found: dict[str, dict[str, list[Record]]] = {}
    budgets = results.get("budgets") or []
    for benchmark in dict.fromkeys(row["benchmark"] for row in results["rows"] if budgets):
        rows = [row for row in results["rows"] if row["benchmark"] == benchmark]
        curves = {}
        for arm in dict.fromkeys(entry["without_budget"] for entry in budgets):
            named = {
                entry["arm"]: entry["arm"].removeprefix(f"{arm}, ")
                for entry in budgets
                if entry["without_budget"] == arm
            }
            points = [_point(rows, name, told) for name, told in {arm: FREE, **named}.items()]
            known = [point for point in points if point is not None]
            curves[arm] = sorted(known, key=lambda point: float(point["tokens"]))
        found[benchmark] = {arm: points for arm, points in curves.items() if points}
    return found


def _point(rows: Sequence[Record], arm: str, told: str) -> Record | None:
    """Returns the tokens and the accuracy of an arm on one benchmark; None if one is not known."""
    of_arm = {row["metric"].split("@")[0]: row for row in rows if row["arm"] == arm}
    point: Record = {"name": told}
    for name, metric in (("tokens", "length"), ("accuracy", "avg")):
        row = of_arm.get(metric)
        if row is None or row["value"] is None:
            return None
        ends = {f"{name}_{side}": row[side] for side in ("low", "high")}
        point |= {name: row["value"], **ends}
    return point


def draw_budget(folder: Path) -> Path:
    """Draws accuracy against tokens to `budget.png`, with intervals: a line for each arm.

    Args:
        folder: Folder of an evaluation, with `results.json`.

    Returns:
        The path of the picture.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    curves = budget_curves(json.loads((folder / RESULTS).read_text()))
    size = (8, 1 + 3.5 * max(1, len(curves)))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(max(1, len(curves)), squeeze=False)[:, 0]
    for axes, (benchmark, arms) in zip(panels, curves.items(), strict=False):
        for number, (arm, points) in enumerate(arms.items()):
            _line(axes, points, arm, f"C{number}")
        axes.set_title(f"{benchmark}, 95 % intervals", loc="left", fontsize=10)
        axes.set_xlabel("tokens of a completion")
        axes.set_ylabel("right answers, %")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return saved(figure, folder / BUDGET)


def _line(axes: Any, points: Sequence[Record], arm: str, color: str) -> None:
    """Draws the points of an arm with their names and intervals, joined by a line."""

    def spread(name: str, factor: float) -> list[list[float]]:
        """Returns how far the interval reaches below and above each value; 0 without one."""
        values = [(p[name], p[f"{name}_low"], p[f"{name}_high"]) for p in points]
        below = [0.0 if low is None else factor * (value - low) for value, low, _ in values]
        above = [0.0 if high is None else factor * (high - value) for value, _, high in values]
        return [below, above]

    x, y = [point["tokens"] for point in points], [100 * point["accuracy"] for point in points]
    axes.errorbar(
        *(x, y, spread("accuracy", 100), spread("tokens", 1)),
        **{"fmt": "o-", "color": color, "capsize": 2, "label": arm},
    )
    for point, across, up in zip(points, x, y, strict=True):
        offset = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8, "color": color}
        axes.annotate(point["name"], (across, up), **offset)
