"""A reward for verifiable instructions, and the checks of each kind."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.types import INSTRUCTIONS, Completion

SCRIPTS = {
    "Chinese": "CJK",
    "Hindi": "DEVANAGARI",
    "Russian": "CYRILLIC",
    "Greek": "GREEK",
    "Korean": "HANGUL",
    "Arabic": "ARABIC",
    "English": "LATIN",
}
"""Beginnings of the Unicode names of the letters of each language."""

LATEX = re.compile(r"\\[a-zA-Z]+|\$[^$]*\$")


def has_word(text: str, word: str) -> bool:
    """Tells whether a text has a word, in upper or lower case and not as a part of another word."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def is_in(text: str, language: str) -> bool:
    """Tells whether more than half of the letters outside of formulas are of the language's script.

    Raises:
        ConfigError: If the script of the language is not known.
    """
    if language not in SCRIPTS:
        rule = f"must be one of {', '.join(SCRIPTS)}"
        raise ConfigError("Instructions.values.language", language, rule=rule)
    names = [unicodedata.name(x, "") for x in LATEX.sub(" ", text) if x.isalpha()]
    return sum(name.startswith(SCRIPTS[language]) for name in names) > len(names) / 2


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "max_words": lambda text, most: len(text.split()) <= most,
    "min_words": lambda text, least: len(text.split()) >= least,
    "keyword": has_word,
    "without_word": lambda text, word: not has_word(text, word),
    "language": is_in,
    "bullets": lambda text, number: len(re.findall(r"^- ", text, re.MULTILINE)) == number,
    "no_commas": lambda text, _: "," not in text,
    "starts_with": lambda text, words: text.strip().startswith(words),
    "ends_with": lambda text, words: text.strip().endswith(words),
}
"""Checks of each kind of instruction; words are what blanks separate."""


def followed(text: str, columns: Mapping[str, Any]) -> float | None:
    """Returns the share of a problem's instructions that a completion follows.

    Args:
        text: Text of the completion.
        columns: Columns of the problem.

    Returns:
        The share, from 0 to 1; None if the problem has no instructions.

    Raises:
        ConfigError: If an instruction is of a kind without a check.
    """
    instructions: Any = columns.get(INSTRUCTIONS)
    if not instructions:
        return None
    return sum(_is_followed(text, one) for one in instructions) / len(instructions)


def _is_followed(text: str, instruction: Mapping[str, Any]) -> bool:
    kind = instruction["kind"]
    if kind not in CHECKS:
        rule = f"has no check; there are {', '.join(CHECKS)}"
        raise ConfigError("Instructions.kinds", kind, rule=rule)
    return CHECKS[kind](text, instruction["value"])


class InstructionReward:
    """Checks the verifiable instructions of `steer_lightning.data.Instructions` (arXiv 2505.14810).

    The reward is 1 if a completion follows all instructions of its problem, else 0, which MathIF
    calls hard accuracy; or the share of the instructions that it follows, the soft accuracy. It
    does not ask whether the answer is right: add `MathReward` for that. Completions of problems
    without instructions have no score.

    Args:
        soft: Whether to give the share of the instructions that are followed.
    """

    bounds = (0.0, 1.0)
    in_process = True  # its patterns take linear time

    def __init__(self, soft: bool = False) -> None:
        self.soft = soft

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        """Scores completions."""
        shares = [followed(completion.text, completion.columns) for completion in completions]
        return [x if self.soft or x is None else float(x == 1) for x in shares]
