"""Which models can skip layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from steer_lightning.optim import check_optimizer
from steer_lightning.rollout import DecodeEngine
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import ARCHITECTURES, tiny_policy
from steer_lightning.training.selfcheck import can_skip_layers, why_not_packed
from tests.unit.training.helpers import policy_with_vectors

HANDING_ON = ["gemma3n", "gemma4"]
"""Architectures whose upper layers read the keys and values of lower ones."""


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"falcon", *HANDING_ON}))
def test_every_architecture_can_skip_layers(architecture: str) -> None:
    assert can_skip_layers(policy_with_vectors(architecture))


@pytest.mark.parametrize("architecture", HANDING_ON)
def test_layers_whose_keys_are_read_above_are_not_skipped(architecture: str) -> None:
    policy = policy_with_vectors(architecture)
    assert why_not_packed(policy) is None
    assert not can_skip_layers(policy)


@pytest.mark.parametrize("default", [(), (0,)], ids=["raises", "differs"])
def test_layers_that_hand_on_more_than_their_stream_are_noticed(
    monkeypatch: pytest.MonkeyPatch, default: tuple[int, ...]
) -> None:
    policy = policy_with_vectors()
    below, above = policy.layers[0].mlp, policy.layers[2].mlp
    first, second, beside = below.forward, above.forward, {}
    monkeypatch.setattr(below, "forward", lambda x: beside.setdefault("x", first(x)))
    monkeypatch.setattr(above, "forward", lambda x: second(x) + beside.pop("x", *default))
    assert not can_skip_layers(policy)


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
