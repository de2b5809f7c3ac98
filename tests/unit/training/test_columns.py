"""Rewards of columns that the problems do not have, or that can't cost anything, are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic, Instructions, TokenBudgets
from steer_lightning.rewards import (
    BudgetReward,
    FormatReward,
    InstructionReward,
    RewardSum,
    WeightedReward,
)
from steer_lightning.rollout import Sampling
from steer_lightning.training.columns import check_columns
from steer_lightning.types import Prompt

PLAIN = Arithmetic(num_problems=3)


def check(source: Any, reward: Any) -> None:
    rows = [
        Prompt(id=n, problem=problem, text=problem.question, token_ids=(1,))
        for n, problem in enumerate(source.load())
    ]
    rewards = RewardSum([WeightedReward(reward=reward)])
    data = SimpleNamespace(prompts={"train": rows})
    check_columns(data, rewards, Sampling(max_new_tokens=16))


def test_instructions_that_are_rewarded_must_be_in_the_problems() -> None:
    with pytest.raises(ConfigError, match=r"InstructionReward.*Problem 1 has none"):
        check(PLAIN, InstructionReward())
    check(PLAIN, FormatReward())
    check(Instructions(PLAIN), InstructionReward())
    odd = Instructions(PLAIN, kinds=["language"], values={"language": ["Klingon"]}, most=1)
    with pytest.raises(ConfigError, match="'Klingon': must be one of"):
        check(odd, InstructionReward())


def test_budgets_that_are_rewarded_must_be_in_the_problems() -> None:
    told = r"data.train.*without TokenBudgets.*BudgetReward in model.rewards.*Problem 1 has none"
    with pytest.raises(ConfigError, match=told):
        check(PLAIN, BudgetReward())
    check(TokenBudgets(PLAIN, {"Be brief.": 9}), BudgetReward())


def test_budgets_that_no_completion_can_exceed_are_refused() -> None:
    told = r"TokenBudgets.budgets = 16: must have .* below model.sampling.max_new_tokens = 16"
    with pytest.raises(ConfigError, match=told):
        check(TokenBudgets(PLAIN, {"Be brief.": 16, "Take your time.": 99}), BudgetReward())
    generous = TokenBudgets(PLAIN, {"Be brief.": 15, "Take your time.": 99})
    check(generous, BudgetReward())
    check(TokenBudgets(PLAIN, {"Be brief.": 99}), FormatReward())
