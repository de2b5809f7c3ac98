"""Every source around another one asks for as many completions as the other one does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from steer_lightning import data
from steer_lightning.data import Instructions, PartialSolutions, Stratum, TokenBudgets
from steer_lightning.data.source_around import SourceAround
from steer_lightning.evaluation.benchmarks import AIME24
from steer_lightning.evaluation.runner import sampling_for
from steer_lightning.rollout import Sampling
from steer_lightning.types import Source
from tests.unit.data.rates import Letters, write_rates

AROUND: dict[type, Callable[[Source, Path], SourceAround]] = {
    Instructions: lambda source, _: Instructions(source),
    PartialSolutions: lambda source, _: PartialSolutions(source),
    Stratum: lambda source, folder: Stratum(source, str(folder)),
    TokenBudgets: lambda source, _: TokenBudgets(source, {"Be brief.": 10}),
}


def test_no_source_around_another_one_is_left_out() -> None:
    found = {
        x
        for x in vars(data).values()
        if inspect.isclass(x) and hasattr(x, "load") and "source" in inspect.signature(x).parameters
    }
    assert found == set(AROUND)


@pytest.mark.parametrize("kind", AROUND)
def test_the_number_of_samples_is_that_of_the_source(kind: type, tmp_path: Path) -> None:
    around = AROUND[kind]
    folder = write_rates(tmp_path, {"a": [1.0]})
    sampling = Sampling(group_size=1)
    found = around(AIME24(), folder)
    assert sampling_for(found, sampling).group_size == 32
    assert sampling_for(TokenBudgets(found, {"Be brief.": 10}), sampling).group_size == 32
    assert sampling_for(around(Letters(), folder), sampling).group_size == 1
