"""Answers of several parts: in which order, in which brackets, how often."""

from __future__ import annotations

import operator

import pytest

from steer_lightning.rewards.answer_collections import (
    Collection,
    compare_collections,
    compare_matrices,
    read_collection,
    separated,
)


def test_parts_are_separated_outside_brackets_alone() -> None:
    assert separated("1, (2, 3); 4 and 5") == ["1", "(2, 3)", "4", "5"]
    assert separated("1), 2") == ["1), 2"], "no brackets that fit"
    assert separated("a or band") == ["a", "band"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1, 2", Collection("list", "", ("1", "2"))),
        (r"\{1, 2\}", Collection("set", "", ("1", "2"))),
        (r"\{1\}", Collection("set", "", ("1",))),
        ("(1, 2]", Collection("tuple", "(]", ("1", "2"))),
        (r"\langle 1, 2\rangle", Collection("tuple", "()", ("1", "2"))),
        (r"1 \pm 2", Collection("list", "", ("1 + 2", "1 - 2"))),
        ("1", None),
        ("(1)", None),
    ],
)
def test_what_a_text_holds(text: str, expected: Collection | None) -> None:
    assert read_collection(text) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("2, 1", "1, 2", True),  # a list has any order
        ("(2, 1)", "(1, 2)", False),  # a tuple has one
        ("1, 2", "(1, 2)", True),  # a list may stand for a tuple, in its order
        ("2, 1", "(1, 2)", False),
        ("1, 2", "[1, 2]", False),
        (r"\{1, 2\}", "(1, 2)", False),
        (r"\{2, 1, 1\}", r"\{1, 2\}", True),  # a part that is told twice counts once
        ("(1, 1)", "(1, 1, 1)", False),
        ("1, 2, 3", "1, 2", False),
        ("5", r"\{5\}", True),
        ("5", "1, 2", None),
        ("5", "5", None),
    ],
)
def test_collections_are_compared(answer: str, gold: str, expected: bool | None) -> None:
    assert compare_collections(answer, gold, operator.eq) is expected


def test_matrices_are_compared_cell_by_cell() -> None:
    one, other = (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\begin{matrix} 1 & 2 \end{matrix}",
    )
    assert compare_matrices(one, one.replace("pmatrix", "bmatrix"), operator.eq) is True
    assert compare_matrices(one, one.replace("4", "5"), operator.eq) is False
    assert compare_matrices(one, other, operator.eq) is False
    assert compare_matrices(one, "1", operator.eq) is None
