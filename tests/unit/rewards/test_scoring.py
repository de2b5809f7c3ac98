"""The weighted sum of rewards, by hand."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import (
    AsyncReward,
    FormatReward,
    LengthReward,
    MathReward,
    RewardSum,
    WeightedReward,
)
from steer_lightning.rewards.scoring import MANY, Pooled
from steer_lightning.types import Completion
from tests.unit.rewards.helpers import completion


def test_wrong_settings_are_errors() -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        FormatReward("(")
    with pytest.raises(ConfigError, match="above free_tokens = 30"):
        LengthReward(30, 30)
    with pytest.raises(ConfigError, match="at least one reward"):
        RewardSum([WeightedReward(reward=FormatReward(), weight=0.0)])
    with pytest.raises(ConfigError, match="finite"):
        WeightedReward(reward=FormatReward(), weight=math.inf)


def test_the_weighted_sum_by_hand() -> None:
    def half(completions):
        return [0.5, None, 1.0]

    def logged(completions):
        return [None, 7, 8]

    parts = [WeightedReward(reward=half, weight=2.0), WeightedReward(reward=half, weight=1.0)]
    scores = RewardSum([*parts, WeightedReward(reward=logged, weight=0.0)])([completion("")] * 3)
    assert scores.total == [1.5, None, 3.0]  # None where a part that counts is None
    assert scores.parts == {
        "half": [0.5, None, 1.0],
        "half_2": [0.5, None, 1.0],
        "logged": [None, 7.0, 8.0],
    }


def test_a_crash_is_never_a_reward() -> None:
    def mine(completions):
        raise KeyError("oops")

    with pytest.raises(KeyError):
        RewardSum([WeightedReward(reward=mine)])([completion("")])


def test_without_rewards_nothing_is_scored() -> None:
    completion = Completion(text="a", question="q", answer="1", num_tokens=1, finished=True)
    scores = RewardSum([])([completion] * 2)
    assert (scores.total, scores.parts, scores.outcomes) == ([None, None], {}, {})


def test_a_sum_beyond_float32_names_the_reward_that_makes_it() -> None:
    def small(completions):
        return [1.0] * len(completions)

    def large(completions):
        return [3e38] * len(completions)

    def scored(weight: float) -> list[float | None]:
        parts = [WeightedReward(reward=small), WeightedReward(reward=large, weight=weight)]
        return RewardSum(parts)([completion("")]).total

    assert scored(1.0) == [3e38]
    assert scored(-1.0) == [-3e38]
    assert scored(0.0) == [1.0], "what is only logged is not added"
    for weight in (1.2, -1.2, 1e300):  # the last sum is infinite in float64, too
        with pytest.raises(ConfigError, match=r"reward large = .*larger than 3\.4e\+38"):
            scored(weight)


@pytest.mark.parametrize("num_bad", [1, MANY])
def test_a_completion_in_an_exception_forges_no_message(
    num_bad: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def judge(completions):
        raise ValueError(completions[0].text)

    bad = completion("bad\nerror: fake\x1b[2J")
    with closing(RewardSum([WeightedReward(reward=AsyncReward(judge, retries=0))])) as rewards:
        if num_bad < MANY:
            rewards([bad])
            (record,) = caplog.records
            told = record.getMessage()
        else:
            with pytest.raises(ConfigError) as caught:
                rewards([bad] * num_bad)
            told = str(caught.value)
    first, *others = told.split("\n")
    assert first.startswith("reward judge")
    assert "    error: fake\\x1b[2J" in told.split(". Fix")[0].split("\n")
    assert all(line.startswith("    ") for line in others)


class BusyPool:
    """Stands for a pool on a busy machine: the first so many probes are late, and all else is."""

    def __init__(self, num_late: int) -> None:
        self.num_late, self.num_probes = num_late, 0
        self.tasks: list[Completion] = []

    def register(self, reward: object) -> int:
        return 0

    def submit(self, reward: int, task: Completion) -> int:
        self.tasks.append(task)
        return len(self.tasks) - 1

    def collect(self, tasks: list[int]) -> list[dict[str, object]]:
        return [self.answer(self.tasks[task]) for task in tasks]

    def answer(self, task: Completion) -> dict[str, object]:
        late = {"score": None, "outcome": "timed_out", "detail": ""}
        if "sqrt{2} + 1" not in task.text:
            return late
        self.num_probes += 1
        if self.num_probes <= self.num_late:
            return late
        return {"score": 0.0, "outcome": "wrong", "detail": ""}


def test_a_probe_that_fails_once_is_asked_again() -> None:
    pool = BusyPool(num_late=1)
    place = Pooled(MathReward(), pool)  # type: ignore[arg-type]
    tower = completion(r"\boxed{9^{9^{9^9}}}", answer=r"\frac12")
    found = [place.collect([place.submit(tower)] * 2) for _ in range(4)]
    outcomes = [[answer["outcome"] for answer in batch] for batch in found]
    assert outcomes == [["timed_out"] * 2, *[["incomparable"] * 2] * 3]
    assert [batch[0]["score"] for batch in found] == [None, 0.0, 0.0, 0.0]
    assert pool.num_probes == 2, "one a batch until it is scored, and none afterwards"


def unbounded(completions: list[Completion]) -> list[float]:
    return [float(completion.num_tokens) for completion in completions]


@pytest.mark.parametrize(
    ("parts", "bounds"),
    [
        ([(MathReward(), 1.0)], (0.0, 1.0)),
        ([(MathReward(), 2.0), (LengthReward(1, 2), 0.5), (unbounded, 0.0)], (-0.5, 2.0)),
        ([(FormatReward(), -1.0)], (-1.0, 0.0)),
        ([(FormatReward(), 1.0), (unbounded, 1.0)], None),
        ([], None),
    ],
)
def test_bounds_of_the_sum(parts: list[Any], bounds: tuple[float, float] | None) -> None:
    found = RewardSum([WeightedReward(reward=reward, weight=weight) for reward, weight in parts])
    assert found.bounds == bounds


def test_bounds_that_are_none_are_refused() -> None:
    for bounds in ((1, 0), (0, "x"), 3, (0, float("inf")), (0, 1, 2)):
        reward = FormatReward()
        reward.bounds = bounds  # type: ignore[assignment]
        with pytest.raises(ConfigError, match="must be two numbers, the smallest"):
            RewardSum([WeightedReward(reward=reward)])


def test_a_batch_is_forgotten_at_the_end_of_its_block_and_may_begin_anew() -> None:
    rewards = RewardSum([WeightedReward(reward=FormatReward(pattern="a"))])
    with closing(rewards.start()) as scoring:
        scoring.add(0, completion("a"))
        assert scoring._tickets
    assert not scoring._tickets
    assert scoring.result([completion("b")]).total == [0.0]


def longest_share(completions: list[Completion]) -> list[float]:
    longest = max(c.num_tokens for c in completions)  # an error for an empty list
    return [c.num_tokens / longest for c in completions]


async def judged(completions: list[Completion]) -> list[float]:
    return longest_share(completions)


@pytest.mark.parametrize("reward", [longest_share, judged, AsyncReward(judged)])
def test_a_process_without_completions_asks_no_reward(reward: Any) -> None:
    rewards = RewardSum([WeightedReward(reward=reward)])
    assert rewards([]).total == []
    assert rewards([completion("one")]).total == [1.0]
    rewards.close()
