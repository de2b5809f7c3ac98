"""Memory that runs out on a CPU is not taken for something that a model can't do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from steer_lightning.optim import check_optimizer
from steer_lightning.rollout import DecodeEngine
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_policy
from steer_lightning.training.forward import can_skip_layers, why_not_packed

MORE_THAN_ANY_MACHINE_HAS = 2**46


def run_out(*args: object, **kwargs: object) -> None:
    """Makes torch raise its own error."""
    torch.empty(MORE_THAN_ANY_MACHINE_HAS)


def cannot(*args: object, **kwargs: object) -> None:
    raise RuntimeError("this model has another mask")


def no_kernel(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("no kernel")


@pytest.mark.parametrize("probe", [why_not_packed, can_skip_layers])
def test_a_probe_that_runs_out_of_memory_says_so(
    probe: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy("llama", SteeringVectors(layers=[1]))
    monkeypatch.setattr(policy, "head_states", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        probe(policy)
    monkeypatch.setattr(policy, "head_states", cannot)
    assert probe(policy) in (False, "RuntimeError: this model has another mask")


def test_an_engine_that_runs_out_of_memory_in_its_check_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny_policy("llama")
    monkeypatch.setattr(policy.model, "forward", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        DecodeEngine().setup(policy)


def test_an_optimizer_that_runs_out_of_memory_in_its_check_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steering = tiny_policy("llama").steering
    monkeypatch.setattr(torch.optim.AdamW, "step", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        check_optimizer(torch.optim.AdamW, steering, torch.device("cpu"))
    monkeypatch.setattr(torch.optim.AdamW, "step", no_kernel)
    with pytest.raises(ValueError, match="takes no step on cpu"):
        check_optimizer(torch.optim.AdamW, steering, torch.device("cpu"))
