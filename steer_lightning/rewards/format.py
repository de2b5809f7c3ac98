"""A reward for the form of a completion."""

from __future__ import annotations

import re
from collections.abc import Sequence

from steer_lightning.errors import ConfigError
from steer_lightning.rewards.answer_in_text import last_boxed
from steer_lightning.types import Completion


class FormatReward:
    r"""Gives 1 if a completion has the form that is asked for, else 0.

    Tags such as `<think>` are part of the text even where the tokenizer has a special token for
    each of them.

    Args:
        pattern: Python regular expression that must match somewhere; `.` matches newlines, too.
            null asks for a closed and filled `\boxed{}`.

    Raises:
        ConfigError: If the pattern is no regular expression.
    """

    bounds = (0.0, 1.0)

    def __init__(self, pattern: str | None = None) -> None:
        try:
            self.pattern = None if pattern is None else re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(
                "FormatReward.pattern", pattern, rule=f"is no Python regular expression ({error})"
            ) from error

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Scores completions."""
        return [float(self._has_form(completion.text)) for completion in completions]

    @property
    def in_process(self) -> bool:
        """Tells whether no deadline is needed; a pattern may take forever on some texts."""
        return self.pattern is None

    def _has_form(self, text: str) -> bool:
        if self.pattern is None:
            return bool(last_boxed(text))
        return self.pattern.search(text) is not None
