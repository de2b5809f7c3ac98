r"""Answers that can't be compared are wrong, unless the gold answer is what can't be compared."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import Any

import pytest

from steer_lightning.rewards import MathReward, RewardPool, RewardSum, WeightedReward
from steer_lightning.rewards.base import INCOMPARABLE
from steer_lightning.types import Completion

TOWER = "9^{9^{9^{9}}}"


def make(answer: str, gold: str) -> Completion:
    text = rf"\boxed{{{answer}}}"
    return Completion(text=text, question="q", answer=gold, num_tokens=1, finished=True)


class FakePool(RewardPool):
    """Scores at once; what the text or the gold answer names fails."""

    def __init__(self, failing: dict[str, str]) -> None:
        super().__init__(num_workers=1)
        self.failing = failing
        self.seen: list[Completion] = []

    def register(self, reward: Any) -> int:
        self.reward = reward
        return 0

    def submit(self, reward: int, completion: Completion) -> int:
        self.seen.append(completion)
        return len(self.seen) - 1

    def collect(self, tasks: Collection[int]) -> list[dict[str, Any]]:
        return [self._answer(self.seen[task]) for task in tasks]

    def _answer(self, completion: Completion) -> dict[str, Any]:
        for word, outcome in self.failing.items():
            if word in completion.text or word in completion.answer:
                return {"score": None, "outcome": outcome, "detail": ""}
        (score,) = self.reward([completion])
        return {"score": score, "outcome": getattr(score, "outcome", "unscored"), "detail": ""}


def test_a_tower_is_wrong_and_a_gold_tower_is_not_the_answers_fault() -> None:
    pool = FakePool({TOWER: "timed_out", "2222": "crashed"})
    scores = RewardSum([WeightedReward(reward=MathReward())], pool)(
        [
            make(TOWER, r"\sqrt{2}"),
            make("2222 x", r"\sqrt{2}"),
            make(r"\sqrt{2}", r"\sqrt{2}"),
            make("x", TOWER),
            make("y", TOWER),
        ]
    )
    assert scores.total == [0.0, 0.0, 1.0, None, None]
    each = [INCOMPARABLE, INCOMPARABLE, "right", "timed_out", "timed_out"]
    assert scores.each["MathReward"] == each
    assert scores.outcomes["MathReward"] == {
        **{"right": 1, "wrong": 0, "no_answer": 0, "unparseable": 0, INCOMPARABLE: 2},
        **{"timed_out": 2, "crashed": 0},
    }


def test_a_problem_is_probed_once() -> None:
    pool = FakePool({TOWER: "timed_out"})
    rewards = RewardSum([WeightedReward(reward=MathReward())], pool)
    for _ in range(3):
        assert rewards([make(TOWER, r"\sqrt{2}")] * 4).total == [0.0] * 4
    probes = [seen for seen in pool.seen if TOWER not in seen.text]
    assert [probe.answer for probe in probes] == [r"\sqrt{2}"]


def test_a_reward_without_a_probe_has_no_score_where_it_fails() -> None:
    def half(completions: list[Completion]) -> list[float]:
        return [0.5] * len(completions)

    pool = FakePool({"never": "timed_out"})
    pool.why_not = lambda reward: ""  # type: ignore[method-assign]
    scores = RewardSum([WeightedReward(reward=half)], pool)([make("never", "1"), make("2", "1")])
    assert scores.total == [None, 0.5]
    assert scores.outcomes["half"] == {"timed_out": 1, "crashed": 0}


def test_an_answer_at_which_the_comparison_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(gold: Any, target: Any, **_: Any) -> bool:
        if "w" in str(target) or "g" in str(gold):
            raise ValueError("can't be compared")
        return False

    monkeypatch.setattr("math_verify.verify", verify)
    found = MathReward()([make("w+1", "x+1"), make("x+2", "x+1"), make("x+2", "g+1")])
    assert found == [0.0, 0.0, None]
    assert [getattr(verdict, "outcome", None) for verdict in found] == [INCOMPARABLE, "wrong", None]


def test_a_gold_answer_that_is_no_number_is_at_fault() -> None:
    assert MathReward()([make("5", r"\frac{1}{0}"), make("x", r"\frac{1}{0}")]) == [None, None]
    assert MathReward()([make(r"\frac{1}{0}", r"\sqrt{5}")]) == [0.0]


def test_clocks_do_not_crash() -> None:
    answers = ("12:00", "1:00", "5", "3:30", "12:00 PM", "x+1", r"\frac{1}{0}")
    assert MathReward()([make(answer, "12:00") for answer in answers]) == [1, 0, 0, 0, 1, 0, 0]


def test_a_real_tower_in_a_real_pool() -> None:
    pool = RewardPool(num_workers=1, deadline=6.0)
    with closing(RewardSum([WeightedReward(reward=MathReward())], pool)) as rewards:
        scores = rewards([make(TOWER, r"\sqrt{2}"), make("9", r"\sqrt{2}")])
    assert scores.total == [0.0, 0.0]
    assert scores.each["MathReward"] == [INCOMPARABLE, "wrong"]
