"""Sums and differences that are made on the spot."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic
from steer_lightning.data.arithmetic import is_held_out, written_out


def test_arithmetic_splits_never_overlap_and_answers_are_right() -> None:
    train = Arithmetic(1500, "train", seed=1).load()
    test = Arithmetic(200, "test", seed=1).load()
    assert len({p.question for p in train}) == 1500
    assert not {p.question for p in train} & {p.question for p in test}
    assert all(is_held_out(p.question) for p in test)
    assert all(eval(p.question) == int(p.answer) >= 0 for p in train + test)
    assert (
        Arithmetic(9, seed=1).load() == Arithmetic(9, seed=1).load() != Arithmetic(9, seed=2).load()
    )


@pytest.mark.parametrize(
    "arguments",
    [{"num_problems": 0}, {"largest": 9}, {"operations": "*"}, {"operations": ""}],
)
def test_arithmetic_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"Arithmetic.{next(iter(arguments))}"):
        Arithmetic(**arguments)


def test_more_arithmetic_than_there_is() -> None:
    with pytest.raises(
        ConfigError, match="more than the number of different problems: only 16 exist"
    ):
        Arithmetic(500, "test", largest=19).load()


def test_solutions_are_written_out() -> None:
    found = {
        (47, "+", 38): r"Ones: 7+8=15. Tens: 4+3+1=8. So \boxed{85}",
        (42, "+", 31): r"Ones: 2+1=3. Tens: 4+3=7. So \boxed{73}",
        (42, "-", 38): r"Ones: 12-8=4. Tens: 4-3-1=0. So \boxed{4}",
        (148, "-", 27): r"Ones: 8-7=1. Tens: 14-2=12. So \boxed{121}",
    }
    assert {key: written_out(*key) for key in found} == found
    for problem in Arithmetic(num_problems=20).load():
        assert str(problem.columns["solution"]).endswith(rf"\boxed{{{problem.answer}}}")
