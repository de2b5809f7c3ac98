"""When memory runs out in a pass that experiments share, the message says how many share it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.sweep.joint_calls import GRADIENT, JointCalls
from steer_lightning.sweep.lanes import Lane
from steer_lightning.sweep.memory import memory_for

NONE_LEFT = "CUDA out of memory"


def test_the_number_of_experiments_and_the_remedies_are_named() -> None:
    told = "sweep = '8 experiments': memory ran out"
    with pytest.raises(ConfigError, match=told) as caught, memory_for(8):
        raise torch.OutOfMemoryError(NONE_LEFT)
    for remedy in ("fewer experiments", "engine.max_tokens_in_flight", "tokens_per_micro_batch"):
        assert remedy in str(caught.value)


def test_an_engine_that_has_given_up_keeps_its_own_words() -> None:
    error = ConfigError("model.x", 1, rule="a rule", fix="Lower it")
    error.__cause__ = torch.OutOfMemoryError(NONE_LEFT)
    told = r"model\.x = 1: a rule\. Lower it\. Or train fewer than 3 experiments at once\."
    with pytest.raises(ConfigError, match=told), memory_for(3):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ConfigError("x", 1, rule="is wrong")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_for(2):
        raise error
    assert caught.value is error


def test_joint_calls_are_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def accumulate(self: JointCalls, lanes: Any) -> Any:
        raise torch.OutOfMemoryError(NONE_LEFT)

    monkeypatch.setattr(JointCalls, "_accumulate", accumulate)
    monkeypatch.setattr("steer_lightning.sweep.joint_calls.JointGradient", lambda *settings: None)
    base = SimpleNamespace(joint=None)
    calls = JointCalls(base, None, 2, num_experiments=5)  # type: ignore[arg-type]
    lanes = [Lane(number=number, run=lambda lane: None) for number in range(3)]  # of this crew
    with pytest.raises(ConfigError, match="5 experiments"):
        calls(GRADIENT, lanes)
