"""Prompts and completions, bounded in length and number so that a page stays small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

MAX_CHARACTERS = 4000
"""Of a text; a longer one is shown without its middle."""
MAX_COMPLETIONS = 16
"""Of a prompt, or of a problem and an arm."""
BUDGET = 3_000_000
"""Characters of all texts of a source."""

Group = dict[str, Any]
"""A prompt: `prompt`, `answer`, `completions`, and what tells it from others, such as `step`."""


def shortened(text: str, most: int = MAX_CHARACTERS) -> str:
    """A text without its middle if it is too long: the beginning shows the way, the end the answer.

    Args:
        text: Any.
        most: Characters that are kept, two thirds of them of the beginning.
    """
    if len(text) <= most:
        return text
    tail = most // 3
    left_out = len(text) - most
    return f"{text[: most - tail]}\n[... {left_out:,} characters left out ...]\n{text[-tail:]}"


def as_completion(row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A completion as the page shows it.

    Args:
        row: With `completion`, `num_tokens` and `finished`.
        more: Further numbers and names, such as its reward.
    """
    return {
        "text": shortened(str(row["completion"])),
        "tokens": row.get("num_tokens"),
        "finished": row.get("finished"),
        **more,
    }


def within_budget(piles: Sequence[Sequence[Group]], budget: int = BUDGET) -> list[Group]:
    """Groups of several piles until the budget is spent: the first of each, the second of each, ...

    Args:
        piles: Groups of each step, or of each benchmark.
        budget: Characters of all texts.

    Returns:
        What is kept, pile by pile; the very first group in any case.
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
    """`3 of 8 prompts`, `all 8 prompts` or `the only prompt`."""
    if total == 1:
        return f"the only {what}"
    return f"all {total:,} {what}s" if count >= total else f"{count:,} of {total:,} {what}s"
