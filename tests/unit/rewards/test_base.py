"""What a reward may return."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.rewards import RewardSum, WeightedReward
from steer_lightning.rewards.base import Verdict, check_scores
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


@pytest.mark.parametrize(
    "scores",
    [
        *([0.5, 2], (0.5, 2), [Fraction(1, 2), Decimal(2)], [Decimal("0.5"), 2.0]),
        *(np.array([0.5, 2]), np.array([0.5, 2], np.float16), torch.tensor([0.5, 2])),
        *([np.float32(0.5), np.int64(2)], [np.array(0.5), np.array(2)]),
        *([torch.tensor(0.5), torch.tensor(2)], torch.tensor([0.5, 2], dtype=torch.bfloat16)),
        *(pd.Series([0.5, 2.0], index=["b", "a"]), np.array([0.5, 2], dtype=object)),
        *(torch.tensor([0.5, 2.0], requires_grad=True), np.ma.masked_invalid([0.5, 2.0])),
    ],
    ids=range(15),
)
def test_numbers_of_every_kind(scores: object) -> None:
    found = check_scores("mine", scores, 2)
    assert found == [0.5, 2.0]
    assert all(type(score) is float for score in found)


def test_truth_values_and_none_and_verdicts() -> None:
    verdict = Verdict(0.0, "wrong")
    assert check_scores("mine", [True, np.bool_(False), torch.tensor(True)], 3) == [1.0, 0.0, 1.0]
    assert check_scores("mine", np.array([True, False]), 2) == [1.0, 0.0]
    found = check_scores("mine", [None, verdict], 2)
    assert found[0] is None
    assert found[1] is verdict


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({0: 1.0, 1: 2.0}, "list of numbers, not a dict"),
        ({"a": 1.0, "b": 2.0}.keys(), "not a set"),
        ({1.0, 2.0}, "list of numbers, not a set"),
        (np.array(1.0), "must return a list of numbers"),
        (torch.tensor(1.0), "must return a list of numbers"),
        (np.ones((2, 1)), "not a table or an array of 2 dimensions"),
        (torch.ones(2, 2), "not a table or an array of 2 dimensions"),
        (torch.ones(3), "one score for each of 2"),
        ([1j, 1.0], "finite numbers"),
        ([Decimal("NaN"), 1.0], "finite numbers"),
        ([Decimal("sNaN"), 1.0], "finite numbers"),
        ([Fraction(10**400), 1.0], "finite numbers"),
        ([torch.tensor(math.nan), 1.0], "finite numbers"),
        ([np.float32("inf"), 1.0], "finite numbers"),
        (["1", "2"], "finite numbers"),
        ([[1.0], [2.0]], "finite numbers"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]}), "not a table"),
        (pd.DataFrame([0.7, 0.7]), "not a table"),  # whose only label is the number 0
        (pd.DataFrame({7: [0.5, 0.5]}), "not a table"),
        (np.ma.masked_invalid([0.5, math.nan]), "finite numbers"),
        (np.array([1, 2], "datetime64[ns]"), "finite numbers"),
        (np.array([1, 2], "timedelta64[s]"), "finite numbers"),
        (np.array([np.timedelta64(1, "s"), 1.0], dtype=object), "finite numbers"),
        (bytearray(b"\x01\x02"), "must return a list of numbers"),
        (memoryview(b"\x01\x02"), "must return a list of numbers"),
    ],
    ids=range(25),
)
def test_what_is_refused_by_name(scores: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"reward mine = .*{message}"):
        check_scores("mine", scores, 2)
