"""Answers in words, times of day and ratios."""

from __future__ import annotations

from fractions import Fraction

import pytest

from steer_lightning.rewards.answer_words import (
    Time,
    compare_times,
    compare_words,
    is_said,
    read_ratio,
    read_time,
    words_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20 June", "june 20"),
        ("June 20th, 1999", "june 20 1999"),
        ("20 of Sept", "september 20"),
        ("June and 20", "june and 20"),
        (r"\text{The Answer.}", "answer"),
        ("An owl", "owl"),
        (r"\frac{1}{2}", None),
    ],
)
def test_one_spelling(text: str, expected: str | None) -> None:
    assert words_of(text) == expected


def test_what_is_surely_in_words() -> None:
    assert is_said("Evelyn")
    assert is_said(r"\text{x}")
    assert not is_said("abc"), "as likely a product"
    assert not is_said("sin x"), "or a function"
    assert is_said("20 June"), "a date"
    assert not is_said("20 eggs"), "a number with a unit"


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("evelyn", "Evelyn", True),
        ("Alice", "Evelyn", False),
        ("5", "Evelyn", False),
        ("5", "7", None),
        ("xy", "xy", None),
        ("abc", "abc", True),
    ],
)
def test_words_are_compared(answer: str, gold: str, expected: bool | None) -> None:
    assert compare_words(answer, gold) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3:05 p.m.", Time(3, 5, "pm")),
        ("3 PM", Time(3, 0, "pm")),
        ("15:00", Time(15, 0, None)),
        ("24:00", None),
        ("3:60", None),
        ("3", None),
    ],
)
def test_times_are_read(text: str, expected: Time | None) -> None:
    assert read_time(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Time(3, 0, "pm"), Time(15, 0, None), True),
        (Time(3, 0, "pm"), Time(3, 0, None), True),
        (Time(12, 0, "am"), Time(0, 0, None), True),
        (Time(3, 0, "pm"), Time(3, 0, "am"), False),
        (Time(3, 0, None), Time(15, 0, None), False),
        (Time(3, 0, "am"), Time(15, 0, None), False),
        (Time(3, 1, None), Time(3, 0, None), False),
    ],
)
def test_what_a_time_leaves_open_is_no_difference(one: Time, other: Time, expected: bool) -> None:
    assert one.equals(other) is other.equals(one) is expected


def test_ratios_are_shares_of_their_sum() -> None:
    assert read_ratio("3 : 2") == read_ratio("6 to 4") == (Fraction(3, 5), Fraction(2, 5))
    assert read_ratio("1:0") is None
    assert read_ratio("3") is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("3 PM", "15:00", True),
        ("6:4", "3:2", True),
        ("1.5", "3:2", True),
        ("3:2:1", "3:2", False),
        ("2/3", "3:2", False),
        ("x", "y", None),
    ],
)
def test_times_and_ratios_are_compared(answer: str, gold: str, expected: bool | None) -> None:
    assert compare_times(answer, gold) is expected
