"""Ends of completions that are told by their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopText:
    """Whether the newest token has completed a stop string.

    Args:
        tokenizer: Of the policy.
        strings: The stop strings.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self._tokenizer, self._strings = tokenizer, strings
        # each token holds at least one byte, so that no stop string reaches further back
        self._window = max(len(string.encode()) for string in strings)

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Looks at the end of a completion's tokens."""
        text = self._tokenizer.decode(tokens[-self._window :])
        return any(string in text for string in self._strings)
