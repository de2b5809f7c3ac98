"""Verifiable instructions that are added to the problems of another source."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from steer_lightning.data.source_around import SourceAround
from steer_lightning.errors import ConfigError
from steer_lightning.system.seeds import check_seed
from steer_lightning.types import INSTRUCTIONS, Problem, Source

GROUPS: dict[str, dict[str, str]] = {
    "length": {
        "max_words": "Use at most {value} words.",
        "min_words": "Use at least {value} words.",
    },
    "keywords": {
        "keyword": 'Use the word "{value}".',
        "without_word": 'Do not use the word "{value}".',
    },
    "language": {"language": "Write in {value}."},
    "format": {
        "bullets": 'Write exactly {value} lines that begin with "- ".',
        "no_commas": "Do not use commas.",
    },
    "affix": {
        "starts_with": 'Begin with "{value}".',
        "ends_with": 'End with "{value}".',
    },
}
"""Texts of the instructions by group and kind. A problem has at most one of each group, so that no
two of its instructions contradict each other."""

KINDS = {kind: (group, text) for group, of_it in GROUPS.items() for kind, text in of_it.items()}

VALUES: dict[str, list[Any]] = {
    "max_words": [50, 100, 200],
    "min_words": [50, 100],
    "keyword": ["therefore", "check", "result"],
    "without_word": ["obviously", "so"],
    "language": ["Chinese", "Hindi", "Russian"],
    "bullets": [2, 3, 4],
    "no_commas": [None],
    "starts_with": ["Let me think."],
    "ends_with": ["That is the answer."],
}
"""Values among which an instruction of each kind chooses, unless others are set."""


class Instructions(SourceAround):
    """Adds 1 to 3 verifiable instructions to each problem of another source.

    MathIF (arXiv 2505.14810) asks whether a model that has learned to reason still does as it is
    told: it combines mathematical problems with one to three instructions that code can check, on
    length, keywords, language, format, and how an answer begins and ends. The kinds here are of
    these groups, with texts of our own. `steer_lightning.rewards.InstructionReward` checks them,
    and `steer-lightning evaluate` measures how many are followed.

    Which instructions a problem gets depends only on `seed` and its place in the source. Question
    and answer of the problem stay what they were, but for the text that is added to the question.

    Args:
        source: Source of the problems.
        kinds: Kinds of instructions to draw from: `max_words`, `min_words`, `keyword`,
            `without_word`, `language` (Chinese, Hindi, Russian, Greek, Korean, Arabic or English),
            `bullets`, `no_commas`, `starts_with` and `ends_with`; null takes all.
        values: Values to choose from, by kind; kinds that are not named keep their own.
        least: Smallest number of instructions of a problem, at least 1.
        most: Largest number of instructions of a problem. No problem has two of the same group.
        text: New question, with `{question}` and `{instructions}`.
        seed: Seed of the instructions.

    Raises:
        ConfigError: If a kind is not known, the numbers do not fit the kinds, or the text lacks a
            placeholder.
    """

    def __init__(
        self,
        source: Source,
        kinds: list[str] | None = None,
        values: dict[str, list[Any]] | None = None,
        least: int = 1,
        most: int = 3,
        text: str = "{question}\n\n{instructions}",
        seed: int = 0,
    ) -> None:
        for key, given in (("kinds", kinds or []), ("values", values or {})):
            unknown = [kind for kind in given if kind not in KINDS]
            if unknown:
                known = ", ".join(KINDS)
                rule = f"{unknown[0]!r} is not a kind of instruction; there are {known}"
                raise ConfigError(f"Instructions.{key}", given, rule=rule)
        self.kinds = list(KINDS) if kinds is None else list(dict.fromkeys(kinds))
        groups = {KINDS[kind][0] for kind in self.kinds}
        if not 1 <= least <= most:
            rule = f"must be at least 1 and at most Instructions.most = {most}"
            raise ConfigError("Instructions.least", least, rule=rule)
        if most > len(groups):
            raise ConfigError(
                "Instructions.most",
                most,
                rule=f"must be at most {len(groups)}, the number of groups of Instructions.kinds",
                why="Two instructions of one group could contradict each other",
            )
        if any(text.count(name) != 1 for name in ("{question}", "{instructions}")):
            rule = "must contain {question} and {instructions}, once each"
            raise ConfigError("Instructions.text", text, rule=rule)
        self.values = {kind: (values or {}).get(kind, VALUES[kind]) for kind in self.kinds}
        for kind, choices in self.values.items():
            if not isinstance(choices, list) or not choices:
                rule = f"must have a list of at least one value for {kind}"
                raise ConfigError("Instructions.values", choices, rule=rule)
        check_seed("Instructions.seed", seed)
        super().__init__(source)
        self.least, self.most, self.text, self.seed = least, most, text, seed

    def load(self) -> list[Problem]:
        """Loads the problems of the source and adds the instructions.

        Returns:
            The problems, whose column `instructions` lists what was added.

        Raises:
            ConfigError: If the problems have such a column already.
        """
        return [self._with(problem, n) for n, problem in enumerate(self.source.load())]

    def _with(self, problem: Problem, number: int) -> Problem:
        if INSTRUCTIONS in problem.columns:
            raise ConfigError(
                "source",
                type(self.source).__name__,
                rule=f"its problems have a column {INSTRUCTIONS!r} already",
                fix="Leave that column out of the source, or use it without Instructions",
            )
        added = self._draw(random.Random(f"{self.seed} {number}"))
        told = " ".join(
            KINDS[one["kind"]][1].replace("{value}", str(one["value"])) for one in added
        )
        # one after the other, since a question may contain the other placeholder
        before, _, after = self.text.partition("{question}")
        parts = (part.replace("{instructions}", told) for part in (before, after))
        question = problem.question.join(parts)
        return replace(problem, question=question, columns={**problem.columns, INSTRUCTIONS: added})

    def _draw(self, rng: random.Random) -> Sequence[dict[str, Any]]:
        groups: dict[str, list[str]] = {}
        for kind in self.kinds:
            groups.setdefault(KINDS[kind][0], []).append(kind)
        chosen = rng.sample(sorted(groups), rng.randint(self.least, self.most))
        kinds = [rng.choice(groups[group]) for group in chosen]
        return [{"kind": kind, "value": rng.choice(self.values[kind])} for kind in kinds]
