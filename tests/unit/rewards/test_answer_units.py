"""A unit is left out of the comparison, and what counts further is none."""

from __future__ import annotations

from fractions import Fraction

import pytest

from steer_lightning.rewards.answer_units import (
    Measure,
    conflict,
    read_compound,
    read_measure,
    short_name,
    steps_between,
)
from tests.unit.rewards.helpers import Table, mistakes, score

LETTERS: Table = {
    r"2\pi rh": ((r"2\pi hr", r"2 \pi r h"), (r"2\pi", r"2\pi r")),
    r"2\pi hr": ((r"2\pi rh",), (r"2\pi", r"2\pi\text{ hours}")),
    r"\pi r^2 h": ((r"\pi hr^2",), (r"\pi r^2",)),
    r"\frac13\pi r^2h": ((r"\frac13\pi hr^2",), (r"\frac13\pi r^2",)),
    r"\frac12mg": ((r"\frac12gm",), (r"\frac12",)),
    r"\frac12 hr": ((r"\frac12 rh",), (r"\frac12",)),
    r"\sqrt2mg": ((r"\sqrt{2} g m",), (r"\sqrt2",)),
    "x^{2}hr": (("x^2 rh",), ("x^2",)),
    "2mg": (("2gm", "2 m g"), ("2", "2m")),
    "12cm": (("12", "12 cm", r"12\text{ cm}"), ("12 m", "13")),
    "60 mph": (("60", "60 miles per hour"), ("60 feet", "61")),
    r"10\sqrt{3}": ((r"10\sqrt3 cm", r"10\sqrt{3}\text{ m}"), (r"10\sqrt3 x",)),
    r"36\pi": ((r"36\pi cubic inches",), (r"36\pi r",)),
}
"""Letters behind a value: a product in a gold answer, and a unit in the answer to a number."""

COMPOUNDS: Table = {
    "1 hour 30 minutes": (
        ("1 hr 30 min", "1.5 hours", "90 minutes", r"1\text{ hour and }30\text{ minutes}"),
        ("1", "1 hour", "1 hour 31 minutes", "30 minutes", "1.5 minutes"),
    ),
    r"5\text{ feet }6\text{ inches}": (
        ("5 ft 6 in", "5 feet, 6 inches", "66 inches"),
        ("5 feet", "5", "6 feet 5 inches"),
    ),
    "18.50": (("18 dollars 50 cents", r"\$18 and 50 cents"), ("18 dollars", "18 dollars 5 cents")),
    "51 hours": (("2 days 3 hours", "2 days 2 hours 60 minutes"), ("2 days", "3 hours")),
}

CONVERTED: Table = {
    "60 minutes": (("1 hour", "60", "3600 seconds"), ("1 minute", "2 hours", "60 miles")),
    "2 dollars": (("200 cents", r"\$2"), ("2 euros", "2 cents")),
    "2.5 hours": (("150 minutes", "9000 s"), ("150 hours", "15 minutes", "2.5 days")),
    r"18\text{ m}": (("1800 cm", "0.018 km", "18000 mm"), ("180 cm", "18 cm", "18 kg")),
    "50 cents": ((r"\$0.50", "0.5 dollars", "0.5 euros"), (r"\$50", "5 dollars")),
    r"15\text{ cm}^2": (("15",), ("150 mm", "15 cm", "0.15 m")),
    "3 feet": (("1 yard", "36 inches"), ("12 inches", "1 meter")),
}
"""One measure in another unit: the same if what it measures is."""

FURTHER = (
    *("out of 6", "in 6", "tenths", "hundredths", "sixths", "sixth", "choose 2", "modulo 7"),
    *("point five", "thousands", "millions", "lakh", "root 2", "div 2", "below zero", "but 6"),
    *("through 9", "wrong", "per 100", "divided by 2", "remainder two", "minutes 30"),
    *(
        "boxes of 12",
        "six seven",
        "theta",
        "squared",
        "grand",
        "negative",
        "doubled",
        "dozens",
        "times 3",
    ),
    *("feet 6 inches", "hours 30 minutes", "dollars 50 cents", "dollars and 50 cents"),
)
"""What changes the number that it stands behind."""

UNITS = (
    *("cm", "m", "apples", "sixth graders", "seconds", "quarters", "pairs of socks", "months"),
    *("apples left", "two-digit numbers", "grand pianos", "square meters", "meters squared"),
    *("kg m/s^2", "m s^{-1}", "cubic feet per second", "boxes of cookies", "in total", "times"),
)


@pytest.mark.parametrize("gold", LETTERS)
def test_letters_behind_a_value(gold: str) -> None:
    assert mistakes(LETTERS, gold) == []


@pytest.mark.parametrize("gold", COMPOUNDS)
def test_compounds(gold: str) -> None:
    assert mistakes(COMPOUNDS, gold) == []


@pytest.mark.parametrize("gold", CONVERTED)
def test_measures_in_other_units(gold: str) -> None:
    assert mistakes(CONVERTED, gold) == []


def test_steps_between_units() -> None:
    assert steps_between("week", "s") == 7 * 24 * 60 * 60
    assert steps_between("in", "yd") == Fraction(1, 36)
    assert steps_between("m", "kg") is None
    assert steps_between("cm^2", "m") is None


def test_what_counts_further_is_no_unit() -> None:
    for words in FURTHER:
        assert score(f"5 {words}", "5") == 0.0, words
        assert score(rf"5\text{{ {words}}}", "5") == 0.0, words
        assert score("5", f"5 {words}") == 0.0, words
    for words in UNITS:
        assert score(f"5 {words}", "5") == 1.0, words


def test_a_compound_is_read_in_each_of_its_units() -> None:
    assert read_compound("1 hour 30 minutes") == {"h": Fraction(3, 2), "min": 90}
    assert read_compound("2 yd 1 ft 6 in") == {
        "yd": Fraction(5, 2),
        "ft": Fraction(15, 2),
        "in": 90,
    }
    for text in ("5 feet", "5 feet 6 kg", "6 inches 5 feet", "5 6", "", "5 apples 6 pears"):
        assert read_compound(text) == {}, text


def test_short_names() -> None:
    names = {"square centimeters": "cm^2", "miles per hour": "mph", "m/s^2": "m/s^2", "eggs": None}
    assert {words: short_name(words) for words in names} == names


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
        ("wombats", None),
        ("", None),
    ],
)
def test_the_one_name_of_a_unit(words: str, expected: str | None) -> None:
    assert short_name(words) == expected


def test_two_known_units_that_are_not_the_same_are_a_conflict() -> None:
    one, other, none = Measure("1", unit="cm"), Measure("1", unit="m"), Measure("1")
    assert conflict(one, other)
    assert not conflict(one, one)
    assert not conflict(one, none)
