"""Beginnings of solutions, which are added to the hard problems of another source."""

from __future__ import annotations

from dataclasses import replace

from steer_lightning.data.base_rates import base_rates
from steer_lightning.data.source_around import SourceAround
from steer_lightning.errors import ConfigError
from steer_lightning.types import Problem, Source


class PartialSolutions(SourceAround):
    r"""Adds the beginning of a solution to the problems that the base rarely solves.

    A problem that no sample solves teaches nothing. With the first steps of its solution in the
    prompt it is easier, and so its group has rewards that differ (SPARKLE, arXiv 2506.04723, whose
    authors give parts of the solutions of their hardest problems). Reward and gold answer stay as
    they are. The vectors are used without such help, so evaluate them on the plain problems.

    Args:
        source: Source of the problems.
        share: Share of the solution's words to give, above 0 and below 1, rounded down. The last
            word is never given, since it often holds the answer.
        column: Column of the source that holds the solution.
        rates: Folder of an evaluation of the base on these problems, or its `completions.parquet`;
            null gives every problem its beginning.
        below: Pass rate of the base below which a problem is hard; only with `rates`. A problem
            that the evaluation does not have is not hard.
        text: New question of every problem, with `{question}` and `{solution}`; the latter is empty
            unless the problem is hard.

    Raises:
        ConfigError: If a number is out of range, the text lacks a placeholder, or there are no
            completions.
    """

    def __init__(
        self,
        source: Source,
        share: float = 0.5,
        column: str = "solution",
        rates: str | None = None,
        below: float | None = None,
        text: str = "{question}\n\n{solution}",
    ) -> None:
        if not 0 < share < 1:
            raise ConfigError("PartialSolutions.share", share, rule="must be above 0 and below 1")
        if (rates is None) != (below is None):
            raise ConfigError(
                "PartialSolutions.below",
                below,
                rule=f"needs PartialSolutions.rates, which is {rates!r}, and the other way round",
                why="Problems are hard whose pass rate in that evaluation is below this number",
                fix="Set both, or neither to help with every problem",
            )
        if below is not None and not 0 < below <= 1:
            rule = "must be above 0 and at most 1"
            raise ConfigError("PartialSolutions.below", below, rule=rule)
        if any(text.count(name) != 1 for name in ("{question}", "{solution}")):
            rule = "must contain {question} and {solution}, once each"
            raise ConfigError("PartialSolutions.text", text, rule=rule)
        super().__init__(source)
        self.share, self.column, self.text = share, column, text
        self.rates, self.below = rates, below

    def load(self) -> list[Problem]:
        """Loads the problems and adds the beginnings of the solutions.

        Raises:
            ConfigError: If a hard problem has no solution.
        """
        problems: list[Problem] = self.source.load()
        rates = {} if self.rates is None else base_rates(self.rates, "source.rates")
        hard = [self.below is None or rates.get(x.question, 1.0) < self.below for x in problems]
        return [self._with(*pair) for pair in zip(problems, hard, strict=True)]

    def _with(self, problem: Problem, is_hard: bool) -> Problem:
        told = self._beginning(problem) if is_hard else ""
        before, _, after = self.text.partition("{question}")
        parts = (part.replace("{solution}", told) for part in (before, after))
        return replace(problem, question=problem.question.join(parts))

    def _beginning(self, problem: Problem) -> str:
        solution = problem.columns.get(self.column)
        if not isinstance(solution, str) or not solution.strip():
            known = ", ".join(problem.columns) or "no columns"
            raise ConfigError(
                "source.column",
                self.column,
                rule=f"is not a text of problem {problem.question[:80]!r}, which has {known}",
            )
        words = solution.split(" ")
        return " ".join(words[: min(int(self.share * len(words)), len(words) - 1)])
