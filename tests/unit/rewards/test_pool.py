"""Answers of a pool reach those who wait for them, and failures those whom they concern."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.rewards import LengthReward, MathReward
from steer_lightning.rewards import pool as pool_module
from steer_lightning.rewards.pool import RewardPool
from steer_lightning.types import Completion

FOUR = Completion(text=r"\boxed{4}", question="", answer="4", num_tokens=3, finished=True)


class Unloadable:
    """Raises when it is loaded."""

    def warm_up(self) -> None:
        raise KeyError("why")

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return [1.0] * len(completions)


class Counted(dict[int, Any]):
    """Counts how often it is asked for a task."""

    num_looks = 0

    def __contains__(self, key: object) -> bool:
        self.num_looks += 1
        return super().__contains__(key)


def answered_by(frames: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> RewardPool:
    """A pool whose keeper is ready, and sends these frames."""
    waiting = iter([{"ready": True}, *frames])
    monkeypatch.setattr(
        pool_module, "receive_frame", lambda connection: json.dumps(next(waiting)).encode()
    )
    pool = RewardPool()
    pool._connection = Mock()
    pool._answers = Counted()
    return pool


@pytest.mark.parametrize("count", [100, 1000])
def test_each_task_is_looked_up_a_few_times(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    order = range(1, count + 1)
    answers = [{"id": task, "score": task / 2, "outcome": "scored"} for task in order]
    pool = answered_by(answers, monkeypatch)
    pool._open = dict.fromkeys(range(1, count + 1), b"")
    found = pool.collect(range(1, count + 1))
    assert [answer["score"] for answer in found] == [task / 2 for task in range(1, count + 1)]
    assert isinstance(pool._answers, Counted)
    assert pool._answers.num_looks <= 3 * count
    assert not pool._answers
    assert not pool._open


def test_answers_to_others_are_kept_and_to_forgotten_ones_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    third, *others = [{"id": task, "outcome": "scored"} for task in (3, 2, 1, 4)]
    pool = answered_by([third, *others], monkeypatch)
    pool._open = dict.fromkeys((1, 3, 4), b"")  # 2 is forgotten
    assert [answer["id"] for answer in pool.collect([4, 1])] == [4, 1]
    assert list(pool._answers) == [3]
    assert pool.collect([3]) == [third], "without another frame"


@pytest.mark.parametrize(
    ("workers", "beside", "each"), [(4, 1, 4), (4, 2, 2), (5, 2, 2), (1, 2, 1)]
)
def test_pools_beside_each_other_share_the_number_of_workers(
    workers: int, beside: int, each: int
) -> None:
    pool = RewardPool(num_workers=workers, deadline=2.0)
    other = pool.emptied(beside)
    assert (other.num_workers, other.deadline, pool.num_workers) == (each, 2.0, workers)


def test_pools_that_hand_over_share_processes_but_not_rewards() -> None:
    first, second = RewardPool(num_workers=1), RewardPool(num_workers=1)
    right, short = MathReward(), LengthReward(free_tokens=1, max_tokens=5)
    first.register(right)
    assert second.register(short) == 0
    host = first.emptied()
    for pool in (first, second):
        pool.hand_over(host)
    assert second.register(right) == 1  # later ones, too
    try:
        tickets = [first.submit(0, FOUR), second.submit(1, FOUR), second.submit(0, FOUR)]
        first.close()  # of an experiment that has ended
        one, two = second.collect(tickets[1:])
        assert [one["score"], two["score"]] == [1.0, -0.5]
        assert first.collect(tickets[:1])[0]["score"] == 1.0
        assert (first._end, second._end) == (None, None)
    finally:
        host.close()
    assert host._end is None


def test_a_reward_that_can_not_be_loaded_fails_alone() -> None:
    first, second = RewardPool(num_workers=1), RewardPool(num_workers=1)
    first.register(Unloadable())
    second.register(LengthReward(free_tokens=1, max_tokens=5))
    host = first.emptied()
    for pool in (first, second):
        pool.hand_over(host)
    try:
        broken, short = first.submit(0, FOUR), second.submit(0, FOUR)
        with pytest.raises(ConfigError, match=r"can't load Unloadable(.|\n)*KeyError") as caught:
            first.collect([broken])
        assert "LengthReward" not in str(caught.value)
        assert second.collect([short])[0]["score"] == -0.5
    finally:
        host.close()


def test_a_reward_that_is_added_meanwhile_loses_no_task_of_others() -> None:
    first, second = RewardPool(num_workers=1), RewardPool(num_workers=1)
    first.register(MathReward())
    host = first.emptied()
    for pool in (first, second):
        pool.hand_over(host)
    try:
        one, two = (first.submit(0, FOUR) for _ in range(2))
        assert first.collect([one])[0]["score"] == 1.0
        three, late = first.submit(0, FOUR), second.register(LengthReward(1, 5))
        four = second.submit(late, FOUR)
        assert [answer["score"] for answer in first.collect([two, three])] == [1.0, 1.0]
        assert second.collect([four])[0]["score"] == -0.5
    finally:
        host.close()


def test_a_pool_whose_keeper_dies_twice_says_so_to_each_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = RewardPool(num_workers=1)
    number = pool.register(MathReward())
    monkeypatch.setattr(pool_module, "KEEPER", "raise SystemExit(1)")
    tasks = [pool.submit(number, FOUR) for _ in range(2)]
    for task in tasks:
        with pytest.raises(RuntimeError, match="died twice"):
            pool.collect([task])
    assert pool._end is None, "nobody waits any more"
