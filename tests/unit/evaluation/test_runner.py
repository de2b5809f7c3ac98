"""The settings by which a benchmark is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic
from steer_lightning.evaluation import AIME24
from steer_lightning.evaluation.runner import check_counts, sampling_for
from steer_lightning.rollout import Sampling


def test_a_benchmark_may_set_its_number_of_completions(tmp_path: Path) -> None:
    problems = tmp_path / "aime.jsonl"
    problems.write_text("{}")
    sampling = Sampling(group_size=3, max_new_tokens=7)
    found = sampling_for(AIME24(path=str(problems)), sampling)
    assert found == Sampling(group_size=32, max_new_tokens=7)
    assert sampling_for(Arithmetic(), sampling) == sampling


def test_numbers_of_an_evaluation_are_at_least_1() -> None:
    one = {"sums": Arithmetic()}
    check_counts(one, 1, None, None)
    check_counts(one, 1, 1, [1, 2])
    for told, settings in (
        ("benchmarks = {}", ({}, 1, None, None)),
        ("batch_size = 0", (one, 0, None, None)),
        ("num_samples = 0", (one, 1, 0, None)),
        (r"pass_at = \[2, 0\]", (one, 1, 1, [2, 0])),
    ):
        with pytest.raises(ConfigError, match=told):
            check_counts(*settings)
