"""Seeds out of range are refused where they are set, before anything is loaded or drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from steer_lightning import ConfigError, PromptDataModule, SteeringModule
from steer_lightning.data import Arithmetic, Instructions
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.steering import READ, LoReFT, LowRankVectors, ProjectedVectors, TinyLoRA, VeRA
from steer_lightning.system.seeds import check_seed


@pytest.mark.parametrize(("num_bits", "largest"), [(32, 4294967295), (64, 18446744073709551615)])
def test_the_smallest_and_the_largest_seed(num_bits: Any, largest: int) -> None:
    check_seed("k", 0, num_bits)
    check_seed("k", largest, num_bits)
    for seed in (-1, largest + 1):
        with pytest.raises(ConfigError, match=rf"^k = {seed}: must be from 0 to {largest}\. .*64 "):
            check_seed("k", seed, num_bits)


def instructions(seed: int) -> Instructions:
    return Instructions(Arithmetic(), seed=seed)


def data(seed: int) -> PromptDataModule:
    return PromptDataModule(Arithmetic(), seed=seed)


def evaluation(seed: int) -> Evaluation:
    return Evaluation({"arithmetic": Arithmetic()}, base="there is no such base", seed=seed)


def module(seed: int) -> SteeringModule:
    return SteeringModule(base="there is no such base", seed=seed)


OF_VECTORS = "model.steering.seed"
TAKERS: list[tuple[Callable[..., Any], str, int]] = [
    (lambda seed: ProjectedVectors(seed=seed), OF_VECTORS, 2**64),
    (lambda seed: LowRankVectors(seed=seed), OF_VECTORS, 2**64),
    (lambda seed: LoReFT(seed=seed), OF_VECTORS, 2**64),
    (lambda seed: READ(seed=seed), OF_VECTORS, 2**64),
    (lambda seed: TinyLoRA(seed=seed), OF_VECTORS, 2**62),
    (lambda seed: VeRA(seed=seed), OF_VECTORS, 2**62),
    (lambda seed: Arithmetic(seed=seed), "Arithmetic.seed", 2**64),
    (instructions, "Instructions.seed", 2**64),
    (data, "data.seed", 2**32),
    (module, "model.seed", 2**32),
    (evaluation, "seed", 2**64),
]


@pytest.mark.parametrize(("make", "key", "too_large"), TAKERS)
def test_whatever_takes_a_seed_refuses_one_out_of_range(
    make: Callable[[int], Any], key: str, too_large: int
) -> None:
    for seed in (too_large, -too_large):
        with pytest.raises(ConfigError, match=rf"^{key} = {seed}: must be "):
            make(seed)


@pytest.mark.parametrize(("make", "key"), [taker[:2] for taker in TAKERS if taker[2] != 2**62])
def test_a_negative_seed_is_refused(make: Callable[[int], Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} = -1: must be from 0 to "):
        make(-1)
