"""A completion to be scored, and the checks of tables of answers."""

from __future__ import annotations

from steer_lightning.rewards import MathReward
from steer_lightning.types import Completion

Table = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
"""By gold answer: right answers, and wrong ones."""


def completion(
    text: str, answer: str = "42", num_tokens: int = 5, finished: bool = True
) -> Completion:
    return Completion(
        text=text, question="q", answer=answer, num_tokens=num_tokens, finished=finished
    )


def score(answer: str, gold: str) -> float | None:
    (verdict,) = MathReward()([completion(rf"\boxed{{{answer}}}", gold)])
    return verdict


def mistakes(table: Table, gold: str) -> list[str]:
    """Returns the right answers that are refused, and the wrong ones that are accepted."""
    right, wrong = table[gold]
    refused = [answer for answer in (gold, *right) if score(answer, gold) != 1.0]
    return refused + [answer for answer in wrong if score(answer, gold) != 0.0]
