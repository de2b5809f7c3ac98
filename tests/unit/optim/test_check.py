"""Optimizers that are refused before a model loads."""

from __future__ import annotations

from functools import partial

import bitsandbytes as bnb
import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.optim import check_optimizer
from steer_lightning.steering import FullFinetune, SteeringVectors
from steer_lightning.testing import tiny_model
from tests.out_of_memory import run_out
from tests.unit.optim.test_state import step_once

CPU = torch.device("cpu")


def test_silent_32_bits_are_an_error() -> None:
    vectors = SteeringVectors().shaped(192, 4)
    factory = partial(bnb.optim.AdamW8bit, lr=1e-3)
    with pytest.raises(ConfigError, match=r"min_8bit_size = 4096.*1024 elements.*min_8bit_size: 0"):
        check_optimizer(factory, vectors, CPU)
    assert step_once(factory([vectors.weight]), vectors).dtype == torch.float32  # what would be
    before = vectors.weight.clone()
    check_optimizer(partial(bnb.optim.AdamW8bit, min_8bit_size=0), vectors, CPU)
    check_optimizer(torch.optim.AdamW, vectors, CPU)
    assert torch.equal(vectors.weight, before), "the trial step is taken on a copy"


class NoKernel(torch.optim.SGD):
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError("8-bit update is not implemented for this device")


def test_an_optimizer_without_a_kernel_is_named_with_the_alternative() -> None:
    vectors = SteeringVectors().shaped(64, 2)
    with pytest.raises(ConfigError, match=r"NoKernel.*take a step on cpu.*not implemented.*AdamW"):
        check_optimizer(partial(NoKernel, lr=1.0), vectors, CPU)
    # one of bitsandbytes' own that can't step on a CPU
    with pytest.raises(ConfigError, match=r"AdEMAMix32bit.*take a step on cpu.*torch.optim.AdamW"):
        check_optimizer(bnb.optim.AdEMAMix32bit, vectors, CPU)


def test_an_8_bit_optimizer_that_would_keep_32_bits_is_refused() -> None:
    steering = FullFinetune()
    steering.build(tiny_model("qwen2"))
    factory = partial(bnb.optim.AdamW8bit, lr=1e-3)
    with pytest.raises(ConfigError, match=r"min_8bit_size = 4096.*16 el.*steering = FullFinetune"):
        check_optimizer(factory, steering, torch.device("cpu"))
    check_optimizer(partial(factory, min_8bit_size=0), steering, torch.device("cpu"))


def no_kernel(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("no kernel")


def test_an_optimizer_that_runs_out_of_memory_in_its_check_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steering = SteeringVectors().shaped(32, 3)
    monkeypatch.setattr(torch.optim.AdamW, "step", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        check_optimizer(torch.optim.AdamW, steering, torch.device("cpu"))
    monkeypatch.setattr(torch.optim.AdamW, "step", no_kernel)
    with pytest.raises(ValueError, match="take a step on cpu"):
        check_optimizer(torch.optim.AdamW, steering, torch.device("cpu"))
