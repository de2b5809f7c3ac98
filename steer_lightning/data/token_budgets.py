"""Token budgets that are written into the prompts of another source."""

from __future__ import annotations

from dataclasses import replace

from steer_lightning.data.source_around import SourceAround
from steer_lightning.errors import ConfigError
from steer_lightning.types import TOKEN_BUDGET, Problem, Source


class TokenBudgets(SourceAround):
    r"""Tells the model in the prompt how many tokens it may spend (L1, arXiv 2503.04697).

    The problems get the budgets in turn, so that each budget has equally many, and a problem always
    has the same one. `steer_lightning.rewards.BudgetReward` penalises what exceeds the budget.
    Answers stay as they are. Budgets of the other kind, which a decoder enforces, are those of
    `steer-lightning evaluate --budgets`.

    Args:
        source: Source of the problems.
        budgets: What the prompt says of each budget, and its number of tokens, such as
            `{"Use at most 100 tokens.": 100, "Use at most 400 tokens.": 400}`.
        text: New question of every problem, with `{question}` and `{budget}`.

    Raises:
        ConfigError: If there is no budget, a number is below 1, or the text lacks a placeholder.
    """

    def __init__(
        self, source: Source, budgets: dict[str, int], text: str = "{question}\n\n{budget}"
    ) -> None:
        if not budgets or min(budgets.values()) < 1:
            rule = "must have at least one budget, and each a number of tokens of at least 1"
            raise ConfigError("TokenBudgets.budgets", budgets, rule=rule)
        if any(text.count(name) != 1 for name in ("{question}", "{budget}")):
            rule = "must contain {question} and {budget}, once each"
            raise ConfigError("TokenBudgets.text", text, rule=rule)
        super().__init__(source)
        self.budgets, self.text = list(budgets.items()), text

    def load(self) -> list[Problem]:
        """Loads the problems and adds the budgets.

        Returns:
            The problems, whose column `token_budget` is the number of tokens.

        Raises:
            ConfigError: If the problems have such a column already.
        """
        return [self._with(problem, n) for n, problem in enumerate(self.source.load())]

    def _with(self, problem: Problem, number: int) -> Problem:
        if TOKEN_BUDGET in problem.columns:
            raise ConfigError(
                "source",
                type(self.source).__name__,
                rule=f"its problems have a column {TOKEN_BUDGET!r} already",
                fix="Leave that column out of the source, or use it without TokenBudgets",
            )
        told, tokens = self.budgets[number % len(self.budgets)]
        # one after the other, since a question may contain the other placeholder
        before, _, after = self.text.partition("{question}")
        question = problem.question.join(x.replace("{budget}", told) for x in (before, after))
        return replace(
            problem, question=question, columns={**problem.columns, TOKEN_BUDGET: tokens}
        )
