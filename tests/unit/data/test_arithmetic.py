"""Sums and differences that are made on the spot."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic
from steer_lightning.data.arithmetic import is_held_out


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
