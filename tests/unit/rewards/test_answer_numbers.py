"""Numbers of all spellings, read exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest

from steer_lightning.rewards.answer_forms import is_equal
from steer_lightning.rewards.answer_numbers import (
    Based,
    Number,
    leading_number,
    read_based,
    read_number,
)
from steer_lightning.rewards.answer_text import tidy


def test_numbers_are_read_exactly() -> None:
    readings = {"1.70e4": 17000, r"1\frac{4}{5}": 1.8, "2 220": 2220, ".5": 0.5, "-1/4": -0.25}
    readings |= {"10^{3}": 1000, "-2e-2": -0.02, "1,000.5": 1000.5, r"0.1\overline{6}": 1 / 6}
    for text, value in readings.items():
        number = read_number(tidy(text))
        assert number is not None
        assert float(number.value) == value
    for text in (
        "e5",
        "x",
        "1,00",
        "1e99999",
        "1/0",
        "2^3",
        r"2\frac{3}{2}",
        "1 . 5",
        "9" * 200,
        "",
    ):
        assert read_number(tidy(text)) is None, text


def test_a_decimal_of_six_places_may_stand_for_a_fraction_but_never_for_another_decimal() -> None:
    assert is_equal("0.333333", r"\frac{1}{3}")
    assert not is_equal("0.333334", r"\frac{1}{3}")
    assert not is_equal("0.333333", "0.3333333")
    assert not is_equal("0.000001", r"\frac{1}{1234567}"), "too few digits that count"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Number(Fraction("0.333333"), 6), Number(Fraction(1, 3), None), True),
        (Number(Fraction("0.33333"), 5), Number(Fraction(1, 3), None), False),
        (Number(Fraction("0.000333"), 6), Number(Fraction(1, 3000), None), False),  # too small
        (Number(Fraction("0.001000"), 6), Number(Fraction(10001, 10_000_000), None), True),
        (Number(Fraction("0.333333"), 6), Number(Fraction("0.3333334"), 7), False),
        (Number(Fraction(1, 3), None), Number(Fraction(1, 3), None), True),
    ],
)
def test_what_a_rounded_decimal_stands_for(one: Number, other: Number, expected: bool) -> None:
    assert one.equals(other) is other.equals(one) is expected


def test_the_number_that_a_text_begins_with() -> None:
    found = leading_number("-1,200 eggs")
    assert found is not None
    assert (found[0].value, found[1].strip()) == (-1200, "eggs")
    assert leading_number("eggs 3") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("204_5", Based("204", 5)),
        (r"204_{\text{five}}", Based("204", 5)),
        ("0ff (base 16)", Based("FF", 16)),
        ("000_2", Based("0", 2)),
        ("204", None),
        ("204_1", None),
    ],
)
def test_digits_with_a_base(text: str, expected: Based | None) -> None:
    assert read_based(text) == expected
