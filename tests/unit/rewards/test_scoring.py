"""The weighted sum of rewards, by hand."""

from __future__ import annotations

import math

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import FormatReward, LengthReward, RewardSum, WeightedReward
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
