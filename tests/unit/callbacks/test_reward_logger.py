"""Metrics of rewards and completions, worked by hand."""

from __future__ import annotations

import math

import pytest

from steer_lightning.callbacks.reward_logger import completion_metrics, reward_metrics
from tests.made_up_step import make_step


def test_reward_metrics_by_hand() -> None:
    assert reward_metrics(make_step()) == pytest.approx(
        {
            "reward/mean": 2 / 3,
            "reward/std": math.sqrt(2 / 9),
            "reward/no_signal_share": 0.5,
            "reward/num_unscored": 1.0,
            "reward/MathReward": 2 / 3,
        }
    )


def test_completion_metrics_by_hand() -> None:
    assert completion_metrics(make_step()) == pytest.approx(
        {
            "completion/length_mean": 2.0,
            "completion/length_max": 3.0,
            "completion/cut_off_share": 0.5,
            "completion/entropy": 8.0 / 8,
        }
    )
