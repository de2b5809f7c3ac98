"""Values apart from their units."""

from __future__ import annotations

import pytest

from steer_lightning.rewards.answer_units import Measure, conflict, read_measure, short_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10%", Measure("10", percent=True)),
        ("10 percent", Measure("10", percent=True)),
        (r"90^\circ", Measure("90", unit="degree")),
        (r"20^\circ C", Measure("20", unit="C")),
        (r"\$7", Measure("7", unit="dollar")),
        (r"15\text{ cm}^2", Measure("15", unit="cm^2")),
        ("204 million", Measure("204", scale=6)),
        ("7 wombats", Measure("7")),
        (r"\sin 30^\circ", Measure(r"\sin 30^\circ")),  # the angle of a function
    ],
)
def test_values_and_units(text: str, expected: Measure) -> None:
    assert read_measure(text, bare_letters=True) == expected


def test_single_letters_are_units_in_answers_alone() -> None:
    assert read_measure("18 m", bare_letters=True).unit == "m"
    assert read_measure("18 m", bare_letters=False) == Measure("18 m")


def test_a_words_power_of_ten_multiplies() -> None:
    number = read_measure("2.5 million", bare_letters=True).number()
    assert number is not None
    assert number.value == 2_500_000
    assert Measure("x").number() is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("centimeters", "cm"),
        ("square feet", "ft^2"),
        ("cm^2", "cm^2"),
        ("miles per hour", "mi/h"),
        ("wombats", None),
        ("", None),
    ],
)
def test_short_names(words: str, expected: str | None) -> None:
    assert short_name(words) == expected


def test_two_known_units_that_are_not_the_same_are_a_conflict() -> None:
    one, other, none = Measure("1", unit="cm"), Measure("1", unit="m"), Measure("1")
    assert conflict(one, other)
    assert not conflict(one, one)
    assert not conflict(one, none)
