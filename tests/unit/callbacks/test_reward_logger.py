"""Metrics of rewards and completions, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from steer_lightning.callbacks.reward_logger import (
    completion_metrics,
    guidance_metrics,
    reward_metrics,
)
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


def test_metrics_of_guided_completions_by_hand() -> None:
    plain = make_step()
    assert guidance_metrics(plain) == {"guidance/share": 0.0}
    nan = float("nan")
    step = replace(
        plain,
        rewards=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        learned_rewards=torch.tensor([[1.0, 0.0], [0.8, nan]]),
        guided=torch.tensor([[False, False], [True, True]]),
        update=replace(plain.update, guidance={"ratio": 0.9, "kl": 0.2}),
    )
    expected = {"share": 0.5, "reward": 0.8, "ratio": 0.9, "kl": 0.2}
    found = guidance_metrics(step)
    assert found == pytest.approx({f"guidance/{name}": x for name, x in expected.items()})
    assert reward_metrics(step)["reward/mean"] == 0.25, "of the policy without hint"


@pytest.mark.parametrize(
    ("takes_part", "finished", "share"),
    [
        ([True, True], [False, False], 0.5),  # cut off, but not left out
        ([False, False], [False, False], 1.0),  # cut off and left out
        ([False, True], [False, True], 0.5),  # one of them is left out
        ([False, False], [True, True], 0.5),  # a group that dynamic sampling does not need
    ],
)
def test_advantages_that_are_left_out_are_no_signal(
    takes_part: list[bool], finished: list[bool], share: float
) -> None:
    step = replace(
        make_step(),
        advantages=torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
        takes_part=torch.tensor([takes_part, [True, True]]),
        finished=torch.tensor([finished, [True, True]]),
    )
    assert reward_metrics(step)["reward/no_signal_share"] == share
