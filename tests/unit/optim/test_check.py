"""Optimizers that are refused before a model loads."""

from __future__ import annotations

from functools import partial
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.optim import MuonByLayer, check_optimizer
from steer_lightning.optim.soap_by_layer import SOAPByLayer
from steer_lightning.steering import (
    AdaptiveVectors,
    BitFit,
    FullFinetune,
    LoRA,
    LowRankVectors,
    SteeringVectors,
)
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


def test_muon_takes_matrices_only_and_the_message_names_both() -> None:
    kinds = {"BitFit": BitFit(), "FullFinetune": FullFinetune()}
    for name, kind in kinds.items():
        kind.build(tiny_model("qwen2"))
        with pytest.raises(ConfigError, match=rf"'Muon': .*steering = {name}.*2D.*MuonByLayer"):
            check_optimizer(torch.optim.Muon, kind, CPU)
    check_optimizer(partial(torch.optim.Muon, lr=0.01), SteeringVectors().shaped(64, 2), CPU)
    # what is wrong for every shape has nothing to do with what is trained
    with pytest.raises(ConfigError, match=r"^model.optimizer: Learning rate should be >= 0"):
        check_optimizer(partial(torch.optim.Muon, lr=-1.0), kinds["BitFit"], CPU)


@pytest.mark.parametrize("optimizer", [MuonByLayer, SOAPByLayer])
def test_rows_that_are_no_vectors_are_refused(optimizer: Any) -> None:
    factory = partial(optimizer, lr=0.02)
    for kind in (LoRA(), LowRankVectors(rank=2), FullFinetune()):
        kind.build(tiny_model("qwen2"))
        name = type(kind).__name__
        with pytest.raises(ConfigError, match=rf"{optimizer.__name__}.*rows of.*steering = {name}"):
            check_optimizer(factory, kind, CPU)
    for kind in (SteeringVectors(), AdaptiveVectors(), BitFit()):
        kind.build(tiny_model("qwen2"))
        check_optimizer(factory, kind, CPU)


def test_their_own_refusals_reach_the_user() -> None:
    vectors = SteeringVectors().shaped(64, 2)
    with pytest.raises(ConfigError, match=r"init_args.momentum = 2: must be at least 0 and below"):
        check_optimizer(partial(MuonByLayer, lr=0.1, momentum=2), vectors, CPU)
    with pytest.raises(ConfigError, match=r"model.optimizer: precondition_frequency must be pos"):
        check_optimizer(partial(SOAPByLayer, lr=0.1, precondition_frequency=0), vectors, CPU)
