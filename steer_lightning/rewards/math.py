r"""Reward for a mathematically right answer.

The answer is compared with math-verify, which knows that \frac{1}{2} is 0.5. Plain numbers, the
bulk of GSM8K and arithmetic, are compared exactly without it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from steer_lightning.rewards.base import Verdict
from steer_lightning.rewards.pool_memory import peak_share
from steer_lightning.types import Completion

BOXED = "\\boxed{"
BRACE = re.compile(r"\\boxed\{|(?<!\\)[{}]")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
MAX_DIGITS = 40  # a longer number is no answer, and exact arithmetic on it would cost without bound
MAX_CHARACTERS = 5000  # a longer text is no answer, and parsing it would only use up the deadline

MUCH_MEMORY = 0.25
"""Share of a worker's cap: a number that outgrows the cap has been half or a third of it before."""

AnswerIn = Literal["boxed", "boxed_or_last_number", "last_number"]


def last_boxed(text: str) -> str | None:
    r"""Content of the last closed `\boxed{...}`; None if there is none.

    One pass with a stack: a text of nothing but unclosed boxes costs no more than any other.
    """
    opened: list[tuple[int, bool]] = []  # where the content begins, and whether it is a box's
    best: tuple[int, int] | None = None
    for brace in BRACE.finditer(text):
        if brace.group() != "}":
            opened.append((brace.end(), brace.group() == BOXED))
        elif opened:
            start, is_box = opened.pop()
            if is_box and (best is None or start > best[0]):
                best = start, brace.start()
    return None if best is None else text[slice(*best)].strip()


def find_answer(text: str, answer_in: AnswerIn = "boxed") -> str | None:
    """The final answer as text.

    Args:
        text: A completion.
        answer_in: Where to look: the last `boxed`, or else the last number, or the last number
            alone.

    Returns:
        None if there is none there.
    """
    answer = last_boxed(text) if answer_in != "last_number" else None
    if answer is None and answer_in != "boxed":
        numbers = NUMBER.findall(text)
        answer = numbers[-1] if numbers else None
    return answer or None


def plain_number(text: str) -> Fraction | None:
    """The value of a plain decimal number, as exact as it is written; None for anything else."""
    text = text.strip().strip("$").replace("\\$", "").rstrip(".").strip()
    if len(text) > MAX_DIGITS or not NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


@lru_cache(maxsize=4096)  # a gold answer is compared with every completion of its group
def _parse(answer: str) -> tuple[Any, ...]:
    if len(answer) > MAX_CHARACTERS:
        return ()
    # it imports sympy, a second that no other command should pay
    from math_verify import LatexExtractionConfig, parse

    # its own time-outs are signals, which fail off the main thread; the reward pool has a deadline
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn of just that
    # LaTeX alone: what can't be read as such would be searched for a number, so that 9**9 is 9, and
    # its arithmetic be handed to Python's eval
    latex = LatexExtractionConfig()
    text = f"${answer}$".replace("\n", " ")
    return tuple(parse(text, extraction_config=[latex], parsing_timeout=None))


def is_comparable(answer: str) -> bool:
    """Whether an answer, without `boxed`, is something that can be compared at all."""
    return plain_number(answer) is not None or bool(_parse(answer))


def is_mathematics(answer: str) -> bool:
    """Whether math-verify reads it as an expression, not just as text."""
    return plain_number(answer) is not None or any(
        not isinstance(part, str) for part in _parse(answer)
    )


def is_equal(answer: str, gold: str) -> bool:
    """Whether an answer is mathematically equal to the gold answer.

    Args:
        answer: The model's, without `boxed`.
        gold: The gold one, without `boxed`; `is_comparable` holds for it.
    """
    expected, given = plain_number(gold), plain_number(answer)
    if expected is not None and given is not None:
        return expected == given
    if answer.strip() == gold.strip():
        return True
    from math_verify import verify

    # what it can't compare is an exception, not a wrong answer
    return bool(
        verify(list(_parse(gold)), list(_parse(answer)), timeout_seconds=None, raise_on_error=True)
    )


class MathReward:
    r"""1 if the completion's answer is mathematically equal to the gold answer, else 0.

    ArXiv 2505.18706.

    None where the gold answer can't be parsed. An answer that is missing, or no mathematics, is
    wrong; the outcomes tell them apart.

    Args:
        answer_in: Where the answer is looked for: the last `\boxed{}` (the paper), else the last
            number, or the last number alone.
    """

    outcomes = ("right", "wrong", "no_answer", "unparseable")

    def __init__(self, answer_in: AnswerIn = "boxed") -> None:
        self.answer_in = answer_in

    def warm_up(self) -> None:
        """Imports sympy, and has it compile what it compiles at its first use."""
        is_equal("x + 1", r"\frac{1}{2}")

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict | None]:
        """Scores completions."""
        return [self._score(completion) for completion in completions]

    def quickly(self, completion: Completion) -> Any:
        """Compares plain numbers; NotImplemented for what needs math-verify."""
        expected = plain_number(last_boxed(completion.answer) or completion.answer)
        if expected is None:
            return NotImplemented
        answer = find_answer(completion.text, self.answer_in)
        if answer is None:
            return Verdict(0.0, "no_answer")
        given = plain_number(answer)
        if given is None:
            return NotImplemented
        return _verdict(given == expected)

    def _score(self, completion: Completion) -> Verdict | None:
        quick = self.quickly(completion)
        if quick is not NotImplemented:
            return quick  # type: ignore[no-any-return]  # a Verdict
        gold = last_boxed(completion.answer) or completion.answer
        if not is_comparable(gold):
            return None
        answer = find_answer(completion.text, self.answer_in)
        if answer is None:
            return Verdict(0.0, "no_answer")
        peak = peak_share()
        if is_equal(answer, gold):
            return Verdict(1.0, "right")
        outcome = "wrong" if is_mathematics(answer) else "unparseable"
        # math-verify makes of a MemoryError an answer that it can't read: no crash is a reward of 0
        if max(peak, MUCH_MEMORY) < peak_share():
            raise MemoryError("comparing this answer takes more memory than is sensible")
        return Verdict(0.0, outcome)


def _verdict(right: bool) -> Verdict:
    return Verdict(1.0, "right") if right else Verdict(0.0, "wrong")
