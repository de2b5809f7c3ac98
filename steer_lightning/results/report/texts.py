"""Limits on the length and number of prompts and completions, so that a page stays small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

MAX_CHARACTERS = 4000
"""Largest number of characters in a text; a longer text is shown without its middle."""
MAX_COMPLETIONS = 16
"""Largest number of completions of a prompt, or of a problem."""
BUDGET = 3_000_000
"""Largest number of characters in all texts of training, or of the evaluation."""

Group = dict[str, Any]
"""A prompt with `prompt`, `answer`, `completions`, and keys that identify it, such as `step`."""


def shortened(text: str, most: int = MAX_CHARACTERS) -> str:
    """Leaves out the middle of a long text: its beginning shows the approach, its end the answer.

    Args:
        text: Text of any length.
        most: Number of characters to keep, two thirds of them from the beginning.
    """
    if len(text) <= most:
        return text
    tail = most // 3
    left_out = len(text) - most
    return f"{text[: most - tail]}\n[... {left_out:,} characters left out ...]\n{text[-tail:]}"


def as_completion(row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Makes the record of a completion that the page shows.

    Args:
        row: Row with `completion`, `num_tokens` and `finished`.
        more: Further numbers and names, such as the reward of the completion.
    """
    return {
        "text": shortened(str(row["completion"])),
        "tokens": row.get("num_tokens"),
        "finished": row.get("finished"),
        **more,
    }


def within_budget(piles: Sequence[Sequence[Group]], budget: int = BUDGET) -> list[Group]:
    """Keeps groups of several piles until the budget is spent: the first of each, then the second.

    Args:
        piles: Groups of each step, or of each benchmark.
        budget: Largest number of characters of all texts.

    Returns:
        The groups that are kept, pile by pile; the very first group is always kept.
    """
    kept: list[list[Group]] = [[] for _ in piles]
    for place in zip_longest(*piles):
        for pile, group in zip(kept, place, strict=True):
            if group is None:
                continue
            budget -= _size(group)
            if budget < 0 and any(kept):
                return _flat(kept)
            pile.append(group)
    return _flat(kept)


def _size(group: Group) -> int:
    return len(group["prompt"]) + sum(len(found["text"]) for found in group["completions"])


def _flat(piles: Iterable[Iterable[Group]]) -> list[Group]:
    return [group for pile in piles for group in pile]


def some_of(count: int, total: int, what: str) -> str:
    """Returns a phrase such as `3 of 8 prompts`, `all 8 prompts` or `the only prompt`."""
    if total == 1:
        return f"the only {what}"
    return f"all {total:,} {what}s" if count >= total else f"{count:,} of {total:,} {what}s"
