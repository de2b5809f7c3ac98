"""Checks of the problems' columns that rewards read, before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import methodcaller
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.rewards import (
    BudgetReward,
    InstructionReward,
    Reward,
    followed,
    reward_name,
)
from steer_lightning.rollout import Sampling
from steer_lightning.types import TOKEN_BUDGET


def check_columns(data: Any, reward: Any, sampling: Sampling) -> None:
    """Raises a ConfigError if rewards are about instructions or budgets that problems do not have.

    The same holds for budgets that no completion can exceed.

    Args:
        data: Data module of the run, whose prompts have been made.
        reward: Sum of the rewards of the run.
        sampling: Settings for sampling the training completions.
    """
    for part in reward.parts.values():
        if isinstance(part.reward, InstructionReward):
            _check_column(data, part.reward, "Instructions", partial(followed, ""))
        elif isinstance(part.reward, BudgetReward):
            _check_column(data, part.reward, "TokenBudgets", methodcaller("get", TOKEN_BUDGET))
            _check_budgets(data, sampling.max_new_tokens)


def _check_column(
    data: Any, reward: Reward, source: str, read: Callable[[Mapping[str, Any]], Any]
) -> None:
    """Raises a ConfigError if `read` finds nothing in the columns of a training problem."""
    for prompt in data.prompts["train"]:
        if read(prompt.problem.columns) is None:
            name = reward_name(reward)
            raise ConfigError(
                "data.train",
                f"a source without {source}",
                rule=f"needs the column of {source} in every problem with {name} in model.rewards",
                why=f"Problem {prompt.id + 1} has none, so its completions would have no score",
                fix=f"Wrap the source in steer_lightning.data.{source}, or leave the reward out",
            )


def _check_budgets(data: Any, most: int) -> None:
    """Raises a ConfigError if no completion can be longer than its budget."""
    smallest = min(prompt.problem.columns[TOKEN_BUDGET] for prompt in data.prompts["train"])
    if smallest >= most:
        raise ConfigError(
            "TokenBudgets.budgets",
            smallest,
            rule=f"must have a budget below model.sampling.max_new_tokens = {most} with "
            "BudgetReward in model.rewards",
            why="No completion is longer than that, so none would be penalised",
            fix="Raise model.sampling.max_new_tokens, or lower the budgets",
        )
