"""Intervals in brackets, as inequalities, as sets."""

from __future__ import annotations

import operator

import pytest

from steer_lightning.rewards.answer_intervals import (
    EVERYTHING,
    Region,
    Span,
    compare_intervals,
    read_region,
)

UP_TO_5 = Span("-oo", False, "5", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"x \le 5", Region((UP_TO_5,), "x", True)),
        (r"5 \ge x", Region((UP_TO_5,), "x", True)),
        (r"(-\infty,5]", Region((UP_TO_5,), None, True)),
        (r"x \in (-\infty,5]", Region((UP_TO_5,), "x", True)),
        ("(1,2)", Region((Span("1", False, "2", False),), None, False)),  # or a point
        ("(1,2]", Region((Span("1", False, "2", True),), None, True)),
        ("x > 1 and x < 5", Region((Span("1", False, "5", False),), "x", True)),
        (r"\mathbb{R}", Region((EVERYTHING,), None, True)),
        ("5", None),
        ("x < 1 or y > 2", None),
    ],
)
def test_what_a_text_names(text: str, expected: Region | None) -> None:
    assert read_region(text) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        (r"x \le 5", r"(-\infty,5]", True),
        ("x < 5", r"(-\infty,5]", False),
        (r"(9,36) \cup (0,9)", r"(0,9) \cup (9,36)", True),
        ("(0,9)", r"(0,9) \cup (9,36)", False),
        ("(1,2)", "(1,2)", None),  # two points, as likely
        ("5", "x > 3", None),
    ],
)
def test_intervals_are_compared(answer: str, gold: str, expected: bool | None) -> None:
    assert compare_intervals(answer, gold, operator.eq) is expected
