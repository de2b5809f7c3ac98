"""Metrics of a benchmark, worked by hand."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics
from tests.made_up_step import make_step


def test_benchmark_metrics_add_up_over_batches() -> None:
    metrics = BenchmarkMetrics()
    metrics.update_with(make_step().rollouts, [1.0, 0.0, None, 0.0])
    metrics.update_with(make_step().rollouts, [1.0, 1.0, 1.0, 1.0])
    # four problems with means 1/2, 0, 1, 1, of which the bootstrap draws four: their sum is at most
    # 1/2 in 5 of 256 draws, 2.0 %, and 1 is what comes next; it is 4 in 1 of 16, more than 2.5 %
    expected = {
        "accuracy": 5 / 7,
        "accuracy_low": 1 / 4,
        "accuracy_high": 1.0,
        "completion_length": 2.0,
        "cut_off_share": 0.5,
        "num_unscored": 1.0,
    }
    assert metrics.result() == pytest.approx(expected)
    unscored = BenchmarkMetrics()
    unscored.update_with(make_step().rollouts, [None] * 4)
    with pytest.raises(ConfigError, match="gold answer"):
        unscored.result()
