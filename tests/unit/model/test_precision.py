"""Checks in float32 of bases that are held in 16 bits."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.model import precision
from steer_lightning.model.padding import why_not_padded
from steer_lightning.model.plain_pass import tolerance
from steer_lightning.model.policy import Policy
from steer_lightning.model.precision import (
    checked_in_float32,
    fits_in_float32,
    misfits,
    precision_of,
)
from steer_lightning.testing import tiny_policy
from steer_lightning.training.selfcheck import why_not_packed
from tests.odd_models import bart, policy_of
from tests.out_of_memory import run_out

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


def narrow() -> Policy:
    policy = tiny_policy()
    policy.model.to(BFLOAT16)
    return policy


def test_a_base_in_16_bits_is_checked_in_float32_and_as_it_is() -> None:
    policy, seen = narrow(), []
    before = policy.base_sha256()
    ids = torch.tensor([[5, 6, 7]])

    def check() -> None:
        seen.append(policy.model(input_ids=ids).logits.dtype)

    assert checked_in_float32(policy, check) is None
    assert seen == [FLOAT32, BFLOAT16]
    assert policy.base_sha256() == before
    assert {tensor.dtype for tensor in policy.model.parameters()} >= {BFLOAT16}


def test_what_is_wrong_in_float32_is_told_before_rounding_hides_it() -> None:
    policy = narrow()
    found = checked_in_float32(policy, lambda: "wrong" if precision_of(policy) == FLOAT32 else None)
    assert found == "wrong, in float32"
    found = checked_in_float32(policy, lambda: "wrong" if policy.model.dtype == BFLOAT16 else None)
    assert found == "wrong"


def test_weights_come_back_when_a_check_fails() -> None:
    policy = narrow()
    before = policy.base_sha256()

    def fail() -> None:
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        checked_in_float32(policy, fail)
    assert policy.base_sha256() == before
    assert policy.model.dtype == BFLOAT16


def test_a_base_in_float32_is_checked_once() -> None:
    calls: list[int] = []
    checked_in_float32(tiny_policy(), lambda: calls.append(1))
    assert calls == [1]


def test_a_base_without_room_for_float32_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy = narrow()
    tensors = (*policy.model.parameters(), *policy.model.buffers())
    numbers = sum(tensor.numel() for tensor in tensors)
    monkeypatch.setattr(precision, "MOST_ELSEWHERE", 2 * numbers)
    assert fits_in_float32(policy)
    monkeypatch.setattr(precision, "MOST_ELSEWHERE", 2 * numbers - 1)
    with caplog.at_level("INFO"):
        assert not fits_in_float32(policy)
    assert "is checked only in bfloat16 (in float32 it needs 0.0 GB more)" in caplog.text


def test_memory_that_runs_out_in_float32_leaves_the_check_in_16_bits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = narrow()
    before, seen = policy.base_sha256(), []

    def check() -> str | None:
        seen.append(policy.model.dtype)
        if policy.model.dtype == FLOAT32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return None if tolerance(policy) == pytest.approx(0.12) else "looser than it may be"

    assert checked_in_float32(policy, check) is None
    assert checked_in_float32(policy, check) is None
    assert seen == [FLOAT32, BFLOAT16, BFLOAT16], "it is not tried again"
    assert caplog.text.count("memory ran out in float32") == 1
    assert policy.base_sha256() == before


@pytest.mark.parametrize("check", [why_not_padded, why_not_packed])
def test_positions_that_count_padding_are_found_in_16_bits(check: object) -> None:
    """The random model's differences are smaller than what rounding in 16 bits may make."""
    assert callable(check)
    policy = policy_of(bart())
    policy.model.to(BFLOAT16)
    assert "in float32" in str(check(policy))


# ---- errors of a model that does not fit


def test_errors_of_a_model_that_does_not_fit_are_kept_in_words() -> None:
    with misfits() as errors:
        raise KeyError("mask")
    assert errors == ["KeyError: 'mask'"]
    with misfits() as errors:
        pass
    assert errors == []


def test_other_errors_are_raised() -> None:
    with pytest.raises(ConfigError, match=r"must be less"), misfits():
        raise ConfigError("x", 1, rule="must be less")
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"), misfits():
        run_out()
    with pytest.raises(ZeroDivisionError), misfits():
        _ = 1 / 0
