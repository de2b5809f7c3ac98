"""The picture of a run's reward curve."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.results.report.series import SMOOTHING, read_series, trailing_mean
from steer_lightning.system.run_files import REWARD_CURVE
from steer_lightning.system.whole_files import written_aside


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
    benchmarks = [
        name for name in series if name.startswith("benchmark/") and name.endswith("/accuracy")
    ]
    for number, name in enumerate(benchmarks, 1):
        shown = name.removeprefix("benchmark/").removesuffix("/accuracy")
        label = f"accuracy on held-out {shown}"
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
    path = folder / REWARD_CURVE
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")
    return path
