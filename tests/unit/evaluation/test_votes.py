"""Which answers are the same answer."""

from __future__ import annotations

from itertools import permutations

import pytest

from steer_lightning.evaluation.votes import compare_by, number_answers
from steer_lightning.rewards import MathReward, RewardSum, WeightedReward


def test_equal_answers_have_one_number_and_few_are_compared() -> None:
    asked = []

    def compare(pairs):  # type: ignore[no-untyped-def]
        asked.append(list(pairs))
        return [{"1/2", r"\frac{1}{2}"} == set(pair) for pair in pairs]

    found = number_answers(
        [["0.5", r"\frac{1}{2}", None, "3", "0.50", "x", "3.0"], ["7", "7"], [None]], compare
    )
    assert found == [[0, 0, None, 1, 0, 2, 1], [0, 0], [None]]
    assert asked == [[(r"\frac{1}{2}", "1/2")], [("x", "1/2")], [("x", "3")]]


def test_answers_are_compared_by_mathematics() -> None:
    judge = RewardSum([WeightedReward(reward=MathReward())])
    answers = [[r"\frac{1}{2}", "0.5", r"\sqrt{4}", "2", "x+1", "1+x"]]
    assert number_answers(answers, compare_by(judge)) == [[0, 0, 1, 1, 2, 2]]


def classes(answers: tuple[str, ...]) -> set[frozenset[str]]:
    judge = RewardSum([WeightedReward(reward=MathReward())])
    (numbers,) = number_answers([answers], compare_by(judge))
    assert list(dict.fromkeys(numbers)) == list(range(len(set(numbers))))
    by_number: dict[int | None, set[str]] = {}
    for answer, number in zip(answers, numbers, strict=True):
        by_number.setdefault(number, set()).add(answer)
    return {frozenset(found) for found in by_number.values()}


@pytest.mark.parametrize(
    ("answers", "together"),
    [
        (("10", r"10\%", "0.1"), [{"10"}, {r"10\%", "0.1"}]),
        (("1/2", r"50\%", "50"), [{"1/2", r"50\%"}, {"50"}]),
        (("3:00", "3:00 AM", "3:00 PM"), [{"3:00", "3:00 AM", "3:00 PM"}]),
        (("3:00 AM", "3:00", "3:00 PM", "3:00 PM"), [{"3:00 AM"}, {"3:00", "3:00 PM"}]),
        (("5", "x=5", "y=5"), [{"5", "x=5", "y=5"}]),
        (("x=5", "y=5"), [{"x=5"}, {"y=5"}]),
    ],
)
def test_votes_do_not_hang_on_the_order_of_the_samples(
    answers: tuple[str, ...], together: list[set[str]]
) -> None:
    for order in permutations(answers):
        assert classes(order) == set(map(frozenset, together)), order
