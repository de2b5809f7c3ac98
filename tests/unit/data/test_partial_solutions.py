"""Beginnings of solutions in the questions of hard problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic, PartialSolutions
from steer_lightning.data.prompts import load_problems
from tests.unit.data.rates import Letters, write_rates


@pytest.mark.parametrize(
    ("share", "told"),
    [(0.1, ""), (0.25, "one"), (0.5, "one two"), (0.7, "one two"), (0.99, "one two three")],
)
def test_the_share_of_words(share: float, told: str) -> None:
    one = PartialSolutions(Letters(), share).load()[0]
    assert one.question == f"a\n\n{told}"
    assert (one.answer, one.columns["level"]) == ("1", 1)


def test_only_hard_problems_are_helped(tmp_path: Path) -> None:
    folder = write_rates(tmp_path, {"a": [0.0, 0.0], "b": [1.0, 0.0]})  # nothing of c
    source = PartialSolutions(
        Letters(), rates=str(folder), below=0.5, text="{question}=?\n{solution}"
    )
    found = [problem.question for problem in source.load()]
    assert found == ["a=?\none two", "b=?\n", "c=?\n"]


def test_the_first_steps_of_a_sum() -> None:
    source = PartialSolutions(Arithmetic(num_problems=1, operations="+"), 0.34)
    (problem,) = source.load()
    question, told = problem.question.split("\n\n")
    a, b = map(int, question.split("+"))
    assert told == f"Ones: {a % 10}+{b % 10}={a % 10 + b % 10}."


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 1.0}, r"PartialSolutions\.share = 1\.0"),
        ({"below": 0.5}, r"PartialSolutions\.below = 0\.5: needs PartialSolutions\.rates"),
        ({"rates": "x"}, r"PartialSolutions\.below = None: needs PartialSolutions\.rates"),
        ({"rates": "x", "below": 0.0}, r"PartialSolutions\.below = 0\.0: must be above 0"),
        ({"text": "{question}"}, r"PartialSolutions\.text"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        PartialSolutions(Letters(), **settings)


def test_a_problem_without_a_solution_is_told() -> None:
    with pytest.raises(ConfigError, match=r"data\.train\.init_args\.column = 'proof'.*level"):
        load_problems(PartialSolutions(Letters(), column="proof"), "data.train")
