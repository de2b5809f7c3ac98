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


def test_the_number_of_experiments_and_the_remedies_are_named() -> None:
    with pytest.raises(ConfigError, match="sweep = '8 experiments': memory ran out") as caught:
        with memory_for(8):
            raise torch.OutOfMemoryError("CUDA out of memory")
    told = str(caught.value)
    assert "Train fewer experiments at once" in told
    assert "model.engine.max_tokens_in_flight" in told
    assert "model.tokens_per_micro_batch" in told


def test_an_engine_that_has_given_up_keeps_its_own_words() -> None:
    with (
        pytest.raises(
            ConfigError, match=r"model\.x = 1: a rule\. Lower it\. Or train fewer than 3"
        ),
        memory_for(3),
    ):
        cause = torch.OutOfMemoryError("CUDA out of memory")
        raise ConfigError("model.x", 1, rule="a rule", fix="Lower it") from cause


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ConfigError("x", 1, rule="is wrong")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_for(2):
        raise error
    assert caught.value is error


def test_joint_calls_are_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def accumulate(self: JointCalls, lanes: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(JointCalls, "_accumulate", accumulate)
    monkeypatch.setattr("steer_lightning.sweep.joint_calls.JointGradient", lambda policy: None)
    calls = JointCalls(SimpleNamespace(joint=None), None)  # type: ignore[arg-type]
    lanes = [Lane(number=number, run=lambda lane: None) for number in range(5)]
    with pytest.raises(ConfigError, match="5 experiments"):
        calls(GRADIENT, lanes)
