"""A reward against completions that exceed the token budget of their prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steer_lightning.types import TOKEN_BUDGET, Completion


class BudgetReward:
    """Gives 0 within the token budget of the prompt, and then falls linearly to -1 at twice that.

    `reward = -min(1, max(0, tokens - budget) / budget)`

    The budgets come from `steer_lightning.data.TokenBudgets`, which also writes them into the
    prompts. The authors of L1 (arXiv 2503.04697) penalise any distance to the budget, or multiply
    the reward of right completions; here only tokens beyond the budget cost, whether the completion
    is right or wrong, since rewards are added up. The score is None if the problem has no budget.
    """

    bounds = (-1.0, 0.0)
    in_process = True  # it can't take long

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        """Scores completions."""
        budgets: list[Any] = [completion.columns.get(TOKEN_BUDGET) for completion in completions]
        return [
            None if budget is None else -min(1.0, max(0, one.num_tokens - budget) / budget)
            for one, budget in zip(completions, budgets, strict=True)
        ]
