"""The picture of a run's reward curve."""

from __future__ import annotations

import re
from pathlib import Path

from steer_lightning.results.report.drawing import saved
from steer_lightning.results.report.series import SMOOTHING, read_series, trailing_mean
from steer_lightning.system.run_files import REWARD_CURVE

ACCURACY = re.compile(r"benchmark/(.+?)(/arms/[\w.-]+)?/accuracy")


def benchmark_of(series: str) -> str | None:
    """Returns the benchmark whose accuracy a series is, or None for other series and for arms."""
    found = ACCURACY.fullmatch(series)
    return None if found is None or found[2] else found[1]


def draw_reward_curve(folder: Path) -> Path:
    """Draws the reward of each step and the accuracy on benchmarks to `reward_curve.png`.

    Args:
        folder: Folder of a run.

    Returns:
        The path of the picture.

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
    benchmarks = {name: benchmark_of(name) for name in series if benchmark_of(name) is not None}
    for number, (name, benchmark) in enumerate(benchmarks.items(), 1):
        label = f"accuracy on held-out {benchmark}"
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
    return saved(figure, folder / REWARD_CURVE)
