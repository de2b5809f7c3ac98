"""Mathematically right, wrong, or not to be scored."""

from __future__ import annotations

import pytest

from steer_lightning.rewards import MathReward
from steer_lightning.rewards.math import find_answer, last_boxed, plain_number
from tests.unit.rewards.helpers import completion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{7} and \boxed{cut of", "7"),
        (r"\boxed{never closed", None),
        (r"\boxed{}", None),
        ("no box 42", None),
    ],
)
def test_last_boxed_answer(text: str, expected: str | None) -> None:
    assert find_answer(text) == expected


def test_where_the_answer_is_looked_for() -> None:
    text = r"\boxed{1} or rather 1,234.50"
    assert find_answer(text, "last_number") == "1,234.50"
    assert find_answer(text, "boxed_or_last_number") == "1"
    assert find_answer("it is -7.", "boxed_or_last_number") == "-7"
    assert find_answer("none", "last_number") is None
    assert last_boxed("") is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("42", "42", 1.0),
        ("42.0", "42", 1.0),
        ("1,234", "1234", 1.0),
        ("43", "42", 0.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        (r"\frac{2}{4}", r"\frac{1}{2}", 1.0),
        ("x+1", "1+x", 1.0),
        ("x+2", "1+x", 0.0),
        (r"\$42", "42", 1.0),
        ("(1,2)", "(1, 2)", 1.0),
        ("", "42", 0.0),
        ("the answer", "42", 0.0),
        ("9**9", "9", 0.0),  # no number is picked out of what can't be read
        ("1 . 40 + 2", "42", 0.0),  # nor is Python asked
        ("42)", "42", 0.0),
        (
            "\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}",
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            1.0,
        ),
    ],
)
def test_mathematical_equality(answer: str, gold: str, expected: float) -> None:
    assert MathReward()([completion(rf"\boxed{{{answer}}}", gold)]) == [expected]


def test_an_unparseable_gold_answer_is_none_not_wrong() -> None:
    assert MathReward()([completion(r"\boxed{42}", "")]) == [None]
    assert MathReward()([completion("no answer", "")]) == [None]


def test_the_gold_answer_may_be_a_whole_solution() -> None:
    assert MathReward()([completion(r"\boxed{0.25}", r"We find \boxed{\frac{1}{4}}.")]) == [1.0]


def test_unclosed_boxes_cost_no_more_than_other_text() -> None:
    unclosed = r"\boxed{" * 150_000  # a megabyte; to look from each box to the end would take hours
    assert last_boxed(unclosed) is None
    assert last_boxed(r"\boxed{7}" + unclosed) == "7"


def test_a_megabyte_of_digits_is_no_plain_number() -> None:
    assert plain_number("9" * 1_000_000) is None
    assert plain_number("-1,000.5") == -1000.5
    assert plain_number("1,00") is None
