"""The picture of the reward."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.results.report.curve import benchmark_of, draw_reward_curve
from steer_lightning.results.report.series import read_series, trailing_mean


def test_the_curve_is_drawn_from_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "benchmark/sums/accuracy,epoch,reward/mean,step\n0.1,,,0\n,0,0.25,0\n,0,0.75,1\n0.9,,,2\n"
    )
    assert read_series(tmp_path) == {
        "benchmark/sums/accuracy": [(0, 0.1), (2, 0.9)],
        "reward/mean": [(0, 0.25), (1, 0.75)],
    }
    assert draw_reward_curve(tmp_path).read_bytes().startswith(b"\x89PNG")
    assert trailing_mean([1.0, 2.0, 3.0], 2) == [1.0, 1.5, 2.5]


def test_arms_are_not_on_it() -> None:
    assert benchmark_of("benchmark/a/b/accuracy") == "a/b"
    assert benchmark_of("benchmark/sums/arms/x0.5/accuracy") is None
    assert benchmark_of("benchmark/sums/accuracy_low") is None
