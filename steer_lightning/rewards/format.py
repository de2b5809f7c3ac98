"""Reward for the form of a completion."""

from __future__ import annotations

import re
from collections.abc import Sequence

from steer_lightning.errors import ConfigError
from steer_lightning.types import Completion


class FormatReward:
    r"""1 if the completion matches a regular expression somewhere, else 0.

    Args:
        pattern: Python regular expression; `.` matches newlines, too. The default asks for a filled
            `\boxed{}`.

    Raises:
        ConfigError: If the pattern is no regular expression.
    """

    def __init__(self, pattern: str = r"\\boxed\{[^{}]+") -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(
                "FormatReward.pattern", pattern, rule=f"is no Python regular expression ({error})"
            ) from error

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Scores completions."""
        return [
            float(self.pattern.search(completion.text) is not None) for completion in completions
        ]
