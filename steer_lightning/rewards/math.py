r"""A reward for mathematically correct answers.

Plain numbers, most of GSM8K and arithmetic, are compared here, in the training process. All other
answers are compared in a worker, form by form, by `answer_forms`; `docs/how-to/evaluate.md` has the
table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from steer_lightning.rewards.answer_forms import is_equal, is_mathematics, is_readable
from steer_lightning.rewards.answer_in_text import AnswerIn, find_answer, gold_answer, last_boxed
from steer_lightning.rewards.base import INCOMPARABLE, Reward, Verdict, WeightedReward
from steer_lightning.rewards.pool_memory import peak_share
from steer_lightning.types import Completion

__all__ = ["AnswerIn", "MathReward", "find_answer", "last_boxed", "plain_number"]

MUCH_MEMORY = 0.25
"""Share of a worker's memory cap: a number that exceeds the cap was half or a third of it
before."""

HARMLESS = r"\sqrt{2} + 1"
"""An answer that can quickly be compared with every valid gold answer."""

RIGHT, WRONG = Verdict(1.0, "right"), Verdict(0.0, "wrong")
NO_ANSWER = Verdict(0.0, "no_answer")
UNPARSEABLE = Verdict(0.0, "unparseable")
NOT_COMPARABLE = Verdict(0.0, INCOMPARABLE)

BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?:\s{0,4}\{([^{}]*)\})?")
"""A box, with its content if that has no braces."""

PLAIN = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
SUM = re.compile(r"-?[0-9]+(?:[-+][0-9]+)+")
MOST_CHARACTERS = 60
"""Maximum number of characters of a plain number: exact arithmetic on longer ones takes long."""


class MathReward:
    r"""Gives 1 if the answer is mathematically equal to the gold answer, else 0 (arXiv 2505.18706).

    The score is None if the gold answer can't be read or compared. An answer is wrong if it is
    missing or is not mathematics. It is also wrong if it can't be compared although the gold answer
    can, so that a policy can't choose to have no score. The outcomes distinguish these cases.

    Args:
        answer_in: Where to look for the answer: `boxed` takes the content of the last `\boxed{}`,
            as in the paper; `boxed_or_last_number` takes the last number if there is no box;
            `last_number` always takes the last number.
    """

    bounds = (0.0, 1.0)
    outcomes = ("right", "wrong", "no_answer", "unparseable", INCOMPARABLE)

    def __init__(self, answer_in: AnswerIn = "boxed") -> None:
        self.answer_in = answer_in

    def warm_up(self) -> None:
        """Imports sympy, and triggers the compilation at its first use."""
        is_equal("x + 1", r"\frac{1}{2}")

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict | None]:
        """Scores completions."""
        quick = [self.quickly(completion) for completion in completions]
        return [
            self.compare(completion) if verdict is NotImplemented else verdict
            for completion, verdict in zip(completions, quick, strict=True)
        ]

    def quickly(self, completion: Completion) -> Any:
        """Compares a plain number in the only box of a text with a plain gold answer, quickly.

        Returns:
            Verdict that `compare` would give, or NotImplemented for all other texts.
        """
        boxes = BOX.findall(completion.text)
        expected = plain_number(completion.answer)
        if self.answer_in != "boxed" or expected is None or len(boxes) > 1:
            return NotImplemented
        if not boxes:
            return NO_ANSWER
        given = plain_number(boxes[0])
        if given is None:
            return NotImplemented
        return RIGHT if given == expected else WRONG

    def compare(self, completion: Completion) -> Verdict | None:
        """Compares answers of any form; may take forever, so it is called in a worker."""
        gold = gold_answer(completion.answer)
        if gold is None or not is_readable(gold):
            return None
        answer = find_answer(completion.text, self.answer_in)
        if answer is None:
            return NO_ANSWER
        peak = peak_share()
        right = _compared(answer, gold, completion.question)
        # math-verify treats a MemoryError as an unreadable answer, but it is a crash
        if not right and max(peak, MUCH_MEMORY) < peak_share():
            raise MemoryError("comparing this answer takes too much memory")
        if right is None:
            return None if _compared(HARMLESS, gold) is None else NOT_COMPARABLE
        if not right and not is_mathematics(answer):
            return UNPARSEABLE
        return RIGHT if right else WRONG

    def probe(self, completion: Completion) -> Completion:
        """Makes a harmless answer to the problem; if it can be scored, the gold answer is valid."""
        text = rf"\boxed{{{HARMLESS}}}"
        return Completion(
            text=text, question="", answer=completion.answer, num_tokens=1, finished=True
        )


def verifier_of(given: Reward | None, rewards: Iterable[WeightedReward]) -> WeightedReward:
    """Returns the verifier of a run, which by default looks for answers where training does.

    Args:
        given: Verifier that the run names, or None.
        rewards: Rewards of the run.

    Returns:
        The given one; or else a `MathReward` with the settings of the only one among the rewards.
        If there is none or there are several, it has the default settings.
    """
    found = [part.reward for part in rewards if type(part.reward) is MathReward]
    default = MathReward(found[0].answer_in) if len(found) == 1 else MathReward()
    return WeightedReward(reward=given or default)


@lru_cache(maxsize=4096)  # completions of a prompt share its answer, and often give the same one
def plain_number(text: str) -> Fraction | None:
    """Returns the exact value of a plain decimal number, or of a sum of integers; else None.

    Args:
        text: An answer such as `-1,234.5`, `$12` or `47+38`.
    """
    text = text.strip().strip("$").removeprefix("\\$").rstrip(".").strip().replace("\u2212", "-")
    if len(text) > MOST_CHARACTERS:
        return None
    if PLAIN.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if SUM.fullmatch(text):
        return Fraction(sum(map(int, re.findall("[-+]?[0-9]+", text))))
    return None


def _compared(answer: str, gold: str, question: str = "") -> bool | None:
    """Returns whether two answers are equal; None if comparing them raises an exception."""
    try:
        return is_equal(answer, gold, question)
    except MemoryError:
        raise
    except Exception:  # sympy's have no common class; the caller finds out what is at fault
        return None
