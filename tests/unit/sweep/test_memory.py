"""When memory runs out in a pass that experiments share, the message says how many share it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.cli import sweep
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import (
    Quantization,
    num_bytes,
    plain_linears,
    quantize_base,
)
from steer_lightning.sweep.joint_calls import GRADIENT, JointCalls
from steer_lightning.sweep.lanes import Lane
from steer_lightning.sweep.memory import (
    EACH,
    bytes_of,
    check_memory,
    free_memory,
    memory_for,
)
from steer_lightning.testing import tiny_model

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


GB = 2**30


def test_experiments_that_fit_are_not_refused() -> None:
    assert check_memory(1000, weights=GB, free=GB + 1000 * EACH) is None
    assert check_memory(1000, weights=GB, free=None) is None


@pytest.mark.parametrize(
    ("free", "told", "fix"),
    [
        (GB + 500 * EACH, "need at least 4.9 GB of memory, and 3.0 GB are free", "fewer than 500"),
        (GB // 2, "need at least 4.9 GB of memory, and 0.5 GB are free", "a smaller base"),
    ],
)
def test_more_experiments_than_memory_holds_are_refused(free: int, told: str, fix: str) -> None:
    with pytest.raises(ConfigError, match="1000 experiments") as raised:
        check_memory(1000, weights=GB, free=free)
    assert told in str(raised.value)
    assert fix in str(raised.value)


def test_bytes_of_a_model() -> None:
    model = torch.nn.Linear(10, 3, device="meta")
    assert bytes_of(model, None) == 4 * 33
    assert bytes_of(model, torch.bfloat16) == 2 * 33


def test_bytes_of_a_quantised_base() -> None:
    model = tiny_model("qwen2")
    # of each of the 7 matrices of 3 layers: half a byte a weight, a scale of 4 bytes for each 64
    # weights, and the 16 values in 4 bytes each
    sizes = [x.weight.numel() for x in plain_linears(model).values()]
    assert len(sizes) == 21
    assert all(size % 64 == 0 for size in sizes)
    kept = sum(x.numel() for x in model.parameters()) - sum(sizes)
    right = sum(size // 2 + 4 * (size // 64) + 64 for size in sizes)
    assert bytes_of(model, None, 4) == 4 * kept + right
    assert bytes_of(model, torch.bfloat16, 4) == 2 * kept + right
    before, whole = num_bytes(model), bytes_of(model, None)
    known: tuple[Literal[4, 8], ...] = (4, 8)
    for bits in known:
        told = bytes_of(model, None, bits)
        taken = num_bytes(quantize_base(copy.deepcopy(model), bits))
        assert whole - told == before - taken, "what is counted is what it takes"


def test_a_sweep_is_measured_by_the_quantised_base(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = [Policy("quickstart", quantization=chosen) for chosen in (None, Quantization())]
    whole, small = (bytes_of(x.empty_base(), torch.float32, x.base_bits) for x in policies)
    assert small < whole / 2
    free = (whole + small) // 2 + EACH
    monkeypatch.setattr(sweep, "free_memory", lambda device: free)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    plain, quantised = (
        SimpleNamespace(
            model=SimpleNamespace(policy=policy), trainer=SimpleNamespace(strategy=strategy)
        )
        for policy in policies
    )
    sweep.check_fit([quantised])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="1 experiments': need at least"):
        sweep.check_fit([plain])  # type: ignore[list-item]


def test_free_memory() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None
