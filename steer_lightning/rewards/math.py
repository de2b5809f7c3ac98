r"""A reward for the mathematically right answer.

Which answers are right is decided form by form in `answer_forms`; `docs/evaluate.md` has the table.
Plain numbers, the bulk of GSM8K and arithmetic, are compared without leaving the training process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steer_lightning.rewards.answer_forms import (
    exact_number,
    is_equal,
    is_mathematics,
    is_readable,
)
from steer_lightning.rewards.answer_in_text import AnswerIn, find_answer, gold_answer, last_boxed
from steer_lightning.rewards.answer_numbers import plain_number
from steer_lightning.rewards.base import INCOMPARABLE, Verdict
from steer_lightning.rewards.pool_memory import peak_share
from steer_lightning.types import Completion

__all__ = ["AnswerIn", "MathReward", "find_answer", "last_boxed", "plain_number"]

MUCH_MEMORY = 0.25
"""Share of a worker's cap: a number that outgrows the cap has been half or a third of it before."""

HARMLESS = r"\sqrt{2} + 1"
"""An answer that is compared with every good gold answer in no time."""


class MathReward:
    r"""1 if the completion's answer is mathematically equal to the gold answer, else 0.

    ArXiv 2505.18706.

    None where the gold answer can't be read or compared. An answer that is missing, or no
    mathematics, is wrong, and so is one that can't be compared though the gold answer can: a policy
    must not choose to have no score. The outcomes tell them apart.

    Args:
        answer_in: Where the answer is looked for: the last `\boxed{}` (the paper), else the last
            number, or the last number alone.
    """

    outcomes = ("right", "wrong", "no_answer", "unparseable", INCOMPARABLE)

    def __init__(self, answer_in: AnswerIn = "boxed") -> None:
        self.answer_in = answer_in

    def warm_up(self) -> None:
        """Imports sympy, and has it compile what it compiles at its first use."""
        is_equal("x + 1", r"\frac{1}{2}")

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict | None]:
        """Scores completions."""
        return [self._score(completion) for completion in completions]

    def quickly(self, completion: Completion) -> Any:
        """Compares numbers; NotImplemented for what needs more than a few microseconds."""
        gold = gold_answer(completion.answer)
        expected = None if gold is None else exact_number(gold)
        if expected is None:
            return NotImplemented
        answer = find_answer(completion.text, self.answer_in)
        if answer is None:
            return Verdict(0.0, "no_answer")
        given = exact_number(answer)
        if given is None:
            return NotImplemented
        return _verdict(given.equals(expected))

    def probe(self, completion: Completion) -> Completion:
        """A harmless answer to the same problem: where it is scored, the gold answer is good."""
        text = rf"\boxed{{{HARMLESS}}}"
        return Completion(
            text=text, question="", answer=completion.answer, num_tokens=1, finished=True
        )

    def _score(self, completion: Completion) -> Verdict | None:
        quick = self.quickly(completion)
        if quick is not NotImplemented:
            return quick  # type: ignore[no-any-return]  # a Verdict
        gold = gold_answer(completion.answer)
        if gold is None or not is_readable(gold):
            return None
        answer = find_answer(completion.text, self.answer_in)
        if answer is None:
            return Verdict(0.0, "no_answer")
        peak = peak_share()
        right = _compared(answer, gold)
        # math-verify makes of a MemoryError an answer that it can't read: that is a crash
        if not right and max(peak, MUCH_MEMORY) < peak_share():
            raise MemoryError("comparing this answer takes more memory than is sensible")
        if right is None:
            return None if _compared(HARMLESS, gold) is None else Verdict(0.0, INCOMPARABLE)
        if not right and not is_mathematics(answer):
            return Verdict(0.0, "unparseable")
        return _verdict(right)


def _compared(answer: str, gold: str) -> bool | None:
    """Whether two answers are equal; None if comparing them raises an exception."""
    try:
        return is_equal(answer, gold)
    except MemoryError:
        raise
    except Exception:  # sympy's are of no common class; the caller finds out whose fault it is
        return None


def _verdict(right: bool) -> Verdict:
    return Verdict(1.0, "right") if right else Verdict(0.0, "wrong")
