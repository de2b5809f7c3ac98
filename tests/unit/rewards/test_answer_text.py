"""One spelling for each sign of an answer."""

from __future__ import annotations

import pytest

from steer_lightning.rewards.answer_text import (
    closing,
    squeezed,
    tidy,
    unmarked,
    without_wrappers,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\N{MINUS SIGN}5", "-5"),
        ("5\N{NO-BREAK SPACE}cm", "5 cm"),
        ("x²", "x^{2}"),
        ("10⁻¹²", "10^{-12}"),
        ("sqrt(2)", r"\sqrt{2}"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (" $= 18.$ ", "18"),
        ("**18**", "18"),
    ],
)
def test_tidy(text: str, expected: str) -> None:
    assert tidy(text) == expected
    assert tidy(expected) == expected


def test_wrappers_are_taken_off_at_any_depth() -> None:
    assert without_wrappers(r"\mathbf{1\boxed{8}}") == "18"
    assert without_wrappers(r"\frac{\mathbf{1}}{2}") == r"\frac{1}{2}", "other braces stay"


def test_blanks_between_words_stay() -> None:
    assert squeezed("a b + 2 , 3 c") == "a b+2,3 c"


def test_marks_of_words() -> None:
    assert unmarked(r"5\text{ cm} and \text{ft}") == "5 cm and ft"


def test_where_a_bracket_is_closed() -> None:
    assert closing("(a(b)c)d", 0) == 6
    assert closing("(a(b)c)d", 2) == 4
    assert closing("(a", 0) == -1
    assert closing("[0,1)", 0) == 4, "of whatever kind"
