"""The penalty of completions beyond the budget of their prompt, by hand."""

from __future__ import annotations

from typing import Any

from steer_lightning.rewards import BudgetReward
from steer_lightning.types import Completion


def of_length(num_tokens: int, **columns: Any) -> Completion:
    return Completion(
        text="", question="", answer="", num_tokens=num_tokens, finished=True, columns=columns
    )


def test_it_falls_in_a_straight_line_from_the_budget_to_twice_the_budget() -> None:
    lengths = (0, 8, 9, 14, 16, 99)
    completions = [of_length(n, token_budget=8) for n in lengths]
    assert BudgetReward()(completions) == [0, 0, -0.125, -0.75, -1, -1]


def test_every_completion_has_the_budget_of_its_own_prompt() -> None:
    completions = [of_length(12, token_budget=budget) for budget in (10, 12, 6)]
    assert BudgetReward()(completions) == [-0.2, 0, -1]


def test_without_a_budget_there_is_no_score() -> None:
    assert BudgetReward()([of_length(5)]) == [None]
