"""The settings by which a benchmark is answered."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.data import Arithmetic
from steer_lightning.evaluation import AIME24
from steer_lightning.evaluation.runner import sampling_for
from steer_lightning.rollout import Sampling


def test_a_benchmark_may_set_its_number_of_completions(tmp_path: Path) -> None:
    problems = tmp_path / "aime.jsonl"
    problems.write_text("{}")
    sampling = Sampling(group_size=3, max_new_tokens=7)
    found = sampling_for(AIME24(path=str(problems)), sampling)
    assert found == Sampling(group_size=32, max_new_tokens=7)
    assert sampling_for(Arithmetic(), sampling) == sampling
