"""A reward for the format of a completion."""

from __future__ import annotations

import re
from collections.abc import Sequence

from steer_lightning.errors import ConfigError
from steer_lightning.rewards.answer_in_text import last_boxed
from steer_lightning.types import Completion


class FormatReward:
    r"""Gives 1 if a completion has the required format, else 0.

    Tags such as `<think>` are part of the text even if the tokenizer has special tokens for them.

    Args:
        pattern: Python regular expression that must match somewhere in the text; `.` also matches
            newlines. null requires a closed and non-empty `\boxed{}`.

    Raises:
        ConfigError: If the pattern is not a regular expression.
    """

    bounds = (0.0, 1.0)

    def __init__(self, pattern: str | None = None) -> None:
        try:
            self.pattern = None if pattern is None else re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(
                "FormatReward.pattern",
                pattern,
                rule=f"is not a Python regular expression ({error})",
            ) from error

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Scores completions."""
        return [float(self._has_form(completion.text)) for completion in completions]

    @property
    def in_process(self) -> bool:
        """Whether no deadline is needed; a pattern may take forever on some texts."""
        return self.pattern is None

    def _has_form(self, text: str) -> bool:
        if self.pattern is None:
            return bool(last_boxed(text))
        return self.pattern.search(text) is not None
