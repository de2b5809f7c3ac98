"""What a reward may return."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import RewardSum, WeightedReward
from tests.unit.rewards.helpers import completion


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "one score for each of 2"),
        ([1.0, float("nan")], "finite"),
        ([1.0, float("inf")], "finite"),
        (["1", 2], "finite numbers"),
        (1.0, "list of numbers"),
        ("ab", "list of numbers"),
        (None, "list of numbers"),
    ],
)
def test_what_a_reward_must_not_return(returned: object, message: str) -> None:
    def mine(completions):
        return returned

    with pytest.raises(ConfigError, match=f"reward mine.*{message}"):
        RewardSum([WeightedReward(reward=mine)])([completion(""), completion("")])
