"""The reward curve of a run."""

from __future__ import annotations

import csv
from pathlib import Path

from steer_lightning.atomic import written_aside

SMOOTHING = 5  # steps


def read_series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads `metrics.csv` of a run's folder.

    Gives (step, value) pairs by metric, in order of the steps.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    series.setdefault(name, []).append((int(row["step"]), float(value)))
    return {name: sorted(points) for name, points in series.items()}


def trailing_mean(values: list[float], width: int = SMOOTHING) -> list[float]:
    """Mean of each value and those before it, `width` in all."""
    return [
        sum(values[max(0, k - width + 1) : k + 1]) / min(k + 1, width) for k in range(len(values))
    ]


def draw_reward_curve(folder: Path) -> Path:
    """Draws the reward of each step and the benchmarks' accuracies to `reward_curve.png`.

    Args:
        folder: Of a run.

    Returns:
        The picture's path.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    series = read_series(folder)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    rewards = series.get("reward/mean", [])
    steps = [step for step, _ in rewards]
    values = [value for _, value in rewards]
    axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label="reward, each step")
    axes.plot(
        steps, trailing_mean(values), color="tab:blue", label=f"reward, mean of {SMOOTHING} steps"
    )
    benchmarks = [
        name for name in series if name.startswith("benchmark/") and name.endswith("/accuracy")
    ]
    for number, name in enumerate(benchmarks, 1):
        label = f"accuracy on held-out {name.split('/')[1]}"
        axes.plot(
            *zip(*series[name], strict=True),
            color=f"C{number}",
            marker="o",
            linestyle="--",
            label=label,
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("reward, accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    path = folder / "reward_curve.png"
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")
    return path
