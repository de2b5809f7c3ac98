"""A reward against long completions."""

from __future__ import annotations

from collections.abc import Sequence

from steer_lightning.errors import ConfigError
from steer_lightning.types import Completion


class LengthReward:
    """Gives 0 up to `free_tokens` tokens, and then falls linearly to -1 at `max_tokens`.

    This is the soft penalty of DAPO (arXiv 2503.14476, equation 13):

    `reward = -min(1, max(0, tokens - free_tokens) / (max_tokens - free_tokens))`

    Args:
        free_tokens: Number of tokens without a penalty.
        max_tokens: Number of tokens from which the penalty is 1.

    Raises:
        ConfigError: If `max_tokens` is not above `free_tokens`.
    """

    bounds = (-1.0, 0.0)
    in_process = True  # it can't take long

    def __init__(self, free_tokens: int, max_tokens: int) -> None:
        if not 0 <= free_tokens < max_tokens:
            raise ConfigError(
                "LengthReward.max_tokens",
                max_tokens,
                rule=f"must be above free_tokens = {free_tokens}, and free_tokens must not be "
                "negative",
            )
        self.free_tokens, self.max_tokens = free_tokens, max_tokens

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Scores completions."""
        span = self.max_tokens - self.free_tokens
        return [-min(1.0, max(0, c.num_tokens - self.free_tokens) / span) for c in completions]
