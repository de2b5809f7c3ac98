"""The reward as a line of bars."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.callbacks import SteeringProgressBar
from steer_lightning.callbacks.progress_bar import sparkline
from tests.made_up_step import make_step


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5]) == "▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([float(k) for k in range(100)])) == 12


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
    for reward in (1.0, float("inf"), 3.0):
        module.last_step = replace(make_step(), rewards=torch.full((2, 2), reward))
        bar.on_train_batch_end(trainer, module, None, None, 0)
    assert [text.split(",")[0] for text in told] == [
        "reward 1.00 ▁",
        "reward 1.00 ▁",
        "reward 2.00 ▁█",
    ]
    module.last_step = None
    with caplog.at_level(logging.WARNING):
        bar.on_train_batch_end(trainer, module, None, None, 0)
    assert "the progress bar of this step is left out: AssertionError" in caplog.text
