"""Which answers are the same answer."""

from __future__ import annotations

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
