"""The reward as a line of bars."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.callbacks import SteeringProgressBar
from steer_lightning.callbacks.progress_bar import sparkline
from steer_lightning.rewards import FormatReward, WeightedReward
from tests.made_up_step import make_step


def test_sparkline() -> None:
    assert sparkline([], 0, 1) == ""
    assert sparkline([0.5], 0, 1) == "▅"
    assert sparkline([0.0, 0.5, 1.0], 0, 1) == "▁▅█"
    assert sparkline([0.0, 0.004, 0.002], 0, 1) == "▁▁▁", "noise near 0 is no progress"
    assert sparkline([-1.0, -0.5, 2.0], -1, 0) == "▁▅█", "what lies outside is at the edge"
    assert sparkline([3.0], 3, 3) == "▁"
    assert len(sparkline([float(k) for k in range(100)], 0, 99)) == 12


@pytest.mark.parametrize(
    ("reward", "curve"),
    [
        (FormatReward(), "▁▁▂"),  # 0, 0.001 and 0.125 between 0 and 1
        (lambda completions: [], "▁▁▄"),  # between 0 and 0.3, which one completion has had
    ],
)
def test_the_curve_has_the_scale_of_the_rewards(reward: Any, curve: str) -> None:
    told: list[str] = []

    class Bar(SteeringProgressBar):
        train_progress_bar = SimpleNamespace(total=3, set_postfix_str=told.append)

    bar = Bar()
    module = SteeringModule(rewards=[WeightedReward(reward=reward)])
    trainer: Any = SimpleNamespace(global_step=1)
    for rewards in ([0.0] * 4, [0.004, 0, 0, 0], [0.3, 0.2, 0.0, 0.0]):
        module.last_step = replace(make_step(), rewards=torch.tensor(rewards).view(2, 2))
        bar.on_train_batch_end(trainer, module, None, None, 0)
    assert [text.split(" ")[1] for text in told] == ["0", "5.0e-4", "0.042"]
    assert told[-1].split(" ")[2] == f"{curve},"


def test_rewards_beyond_float32_and_failures_do_not_end_a_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bar(SteeringProgressBar):
        train_progress_bar = SimpleNamespace(
            total=4, set_postfix_str=lambda text: told.append(text)
        )

    told: list[str] = []
    bar, module = Bar(), SteeringModule()
    trainer: Any = SimpleNamespace(global_step=1)
    for reward in (0.5, float("inf"), 1e30):
        module.last_step = replace(make_step(), rewards=torch.full((2, 2), reward))
        bar.on_train_batch_end(trainer, module, None, None, 0)
    assert [text.rsplit(", ", 1)[0] for text in told[:2]] == ["reward 0.5 ▅"] * 2
    assert told[2].split(" ")[2] == "▅█,"
    module.last_step = None
    with caplog.at_level(logging.WARNING):
        bar.on_train_batch_end(trainer, module, None, None, 0)
    assert "the progress bar of this step is skipped: AssertionError" in caplog.text


def test_a_resumed_run_goes_on_at_its_step_with_total_and_time_left() -> None:
    bar = SteeringProgressBar()
    bar._rewards, bar._seen = [0.5], (0.0, 1.0)  # of an earlier run
    facts: dict[str, Any] = {"is_global_zero": True, "estimated_stepping_batches": 40}
    trainer: Any = SimpleNamespace(**facts, global_step=20)
    bar.setup(trainer, SteeringModule(), "fit")
    bar.on_train_start(trainer, SteeringModule())
    line = bar.train_progress_bar
    assert (line.n, line.total) == (20, 40)
    assert not bar._rewards
    assert bar._seen == (math.inf, -math.inf)
    bar.on_train_epoch_start(trainer)  # a run that goes on at the start of an epoch
    line.n, line.start_t = 30, line.start_t - 10  # 10 steps in 10 s
    assert "75%" in str(line)
    assert "30/40 [00:10<00:10]" in str(line)
    bar.on_exception(trainer, SteeringModule(), KeyboardInterrupt())
    assert line.disable, "the line has ended"
    SteeringProgressBar().on_exception(trainer, SteeringModule(), KeyboardInterrupt())


def test_a_run_without_an_end_has_no_total() -> None:
    bar = SteeringProgressBar()
    trainer: Any = SimpleNamespace(
        is_global_zero=True, estimated_stepping_batches=float("inf"), global_step=0
    )
    bar.setup(trainer, SteeringModule(), "fit")
    bar.on_train_start(trainer, SteeringModule())
    assert bar.train_progress_bar.total is None
    bar.train_progress_bar.close()
