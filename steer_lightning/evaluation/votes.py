"""The comparison of a problem's answers, which finds those that are the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set
from fractions import Fraction

from steer_lightning.rewards import RewardSum
from steer_lightning.rewards.math import plain_number
from steer_lightning.types import Completion

Pairs = Sequence[tuple[str, str]]
Compare = Callable[[Pairs], list[bool]]
"""Function that decides for each pair of answers whether they are mathematically equal."""


def compare_by(judge: RewardSum) -> Compare:
    """Makes a comparison with a `MathReward`; a pair that it can't judge counts as not equal.

    Two answers are equal if each is right when the other is the gold answer. A concession that is
    made only to an answer, such as 10 for a gold answer of 10 %, does not apply here, since neither
    answer is gold.

    Args:
        judge: Sum of one `MathReward` that looks for a boxed answer; its pool sets the deadline.
    """

    def is_right(pairs: Pairs) -> list[bool]:
        completions = [
            Completion(
                text=rf"\boxed{{{first}}}",
                question="",
                answer=rf"\boxed{{{second}}}",
                num_tokens=1,
                finished=True,
            )
            for first, second in pairs
        ]
        return [total == 1.0 for total in judge(completions).total]

    def compare(pairs: Pairs) -> list[bool]:
        found = is_right(pairs)
        swapped = [pair[::-1] for pair, equal in zip(pairs, found, strict=True) if equal]
        again = iter(is_right(swapped))
        return [equal and next(again) for equal in found]

    return compare


def number_answers(
    problems: Sequence[Sequence[str | None]],
    compare: Compare,
    alone: Sequence[Set[str]] | None = None,
) -> list[list[int | None]]:
    """Numbers the answers of each problem from 0 in their order; equal answers share a number.

    Plain numbers are compared exactly, and equal texts are equal. Any other answer is compared with
    one answer of each class so far; each round compares the answers of all problems in one call.
    The first answer of a class is the one that most samples give; among equally frequent answers,
    it is the first in alphabetical order. So the order of the samples does not affect which answers
    vote together, even though 3:00 equals both 3:00 AM and 3:00 PM.

    Args:
        problems: For each problem, the answers of its samples, None for a sample without one.
        compare: Comparison of the answers whose equality is not obvious.
        alone: For each problem, the answers that are equal only to themselves. These are answers
            that could not be judged in time, and would take as long with every other answer.
    """
    sets = alone or [frozenset[str]()] * len(problems)
    classes = [_Classes(answers, its) for answers, its in zip(problems, sets, strict=True)]
    while True:
        asked = [(open_, pair) for open_ in classes if (pair := open_.next_pair()) is not None]
        if not asked:
            return [found.numbers for found in classes]
        verdicts = compare([pair for _, pair in asked])
        for (open_, _), equal in zip(asked, verdicts, strict=True):
            open_.tell(equal)


class _Classes:
    """Sorts the answers of one problem into classes of equal answers."""

    def __init__(self, answers: Sequence[str | None], alone: Set[str]) -> None:
        self._alone = {_key(answer) for answer in alone}
        keys = [None if answer is None else _key(answer) for answer in answers]
        self._keys = keys
        counts = Counter(key for key in keys if key is not None)
        self._open = sorted(counts, key=lambda key: (-counts[key], str(key)))
        self._class: dict[str | Fraction, int] = {}
        self._members: list[str | Fraction] = []  # the first answer of each class
        self._compared = 0

    def next_pair(self) -> tuple[str, str] | None:
        """Returns an unclassified answer with the first answer of a class, or None at the end."""
        while self._open:
            answer = self._open[0]
            if self._compared == len(self._members) or answer in self._alone:
                self._class[answer] = len(self._members)
                self._members.append(answer)
                self._close()
                continue
            member = self._members[self._compared]
            numbers = isinstance(answer, Fraction) and isinstance(member, Fraction)
            if numbers or member in self._alone:  # numbers with different keys are different
                self._compared += 1
                continue
            return str(answer), str(member)
        return None

    def tell(self, equal: bool) -> None:
        """Receives the verdict on the pair that `next_pair` returned last."""
        if equal:
            self._class[self._open[0]] = self._compared
            self._close()
        else:
            self._compared += 1

    def _close(self) -> None:
        self._open.pop(0)
        self._compared = 0

    @property
    def numbers(self) -> list[int | None]:
        order: dict[int, int] = {}
        return [
            None if key is None else order.setdefault(self._class[key], len(order))
            for key in self._keys
        ]


def _key(answer: str) -> str | Fraction:
    number = plain_number(answer)
    return answer.strip() if number is None else number
