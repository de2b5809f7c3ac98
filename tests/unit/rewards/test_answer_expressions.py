"""Expressions as math-verify reads and compares them."""

from __future__ import annotations

import pytest

from steer_lightning.rewards.answer_expressions import (
    MAX_CHARACTERS,
    expressions,
    is_equal,
    parsed,
    with_names_apart,
)


def test_letters_that_differ_by_their_case_alone_get_other_names() -> None:
    assert with_names_apart("R+r", "r+R") == ["q+r", "r+q"], "the same in both texts"
    assert with_names_apart("Q+q", "r") == ["w+q", "r"]
    assert with_names_apart("R+s") == ["R+s"]
    assert with_names_apart(r"\Omega", r"\omega") == ["q", r"\omega"]


def test_letters_with_a_mark_get_other_names() -> None:
    derivative, plain = with_names_apart("f'(x)", "f(x)")
    assert plain == "f(x)"
    assert derivative.split() == ["q", "(x)"]


def test_what_is_read() -> None:
    (found,) = expressions("2(5)")
    assert int(found) == 10, "a product, no mixed number"
    (found,) = expressions("41,000")
    assert int(found) == 41000
    assert parsed("1" * (MAX_CHARACTERS + 1)) == ()


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("2(x+1)", "2x+2", True),
        ("2x+2y=10", "x+y=5", True),  # a multiple of the equation
        ("x+y=6", "x+y=5", False),
        ("0=0", "x+y=5", False),
        ("10^{-20}", r"2\cdot 10^{-20}", False),  # both are tiny, and not the same
        ("5-5", "0", True),
        (r"\sqrt{2}", "1.4142", False),
        ("6 - 5i", "6-5i", True),
    ],
)
def test_expressions_are_compared(answer: str, gold: str, expected: bool) -> None:
    assert is_equal(answer, gold) is expected
