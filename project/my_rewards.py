"""Rewards of this project: functions that take completions and return one number for each.

A completion has `text`, `question` and `answer` (from the data), `num_tokens`, `finished` (false if
it ran into the token limit), and `columns`, the other columns of the data. Return None for a
completion that can't be scored; it is then left out, because a failure is not a reward of 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from steer_lightning.types import Completion


def right_answer(completions: Sequence[Completion]) -> list[float | None]:
    """Returns 1 if the last number in the text is the answer, otherwise 0."""
    return [float(last_number(c.text) == c.answer) for c in completions]


def last_number(text: str) -> str:
    """Returns the last whole number in a text; empty if there is none."""
    found = re.findall(r"-?\d+", text)
    return found[-1] if found else ""
