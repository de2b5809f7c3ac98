"""The settings by which the completions of a rollout are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one kind of rollout. The defaults are the paper's.

    Attributes:
        group_size: Number of completions of each prompt, G.
        temperature: Divisor of the logits; 0 takes the most likely token.
        top_p: Probability that the smallest set of most likely tokens must reach, which alone are
            kept; 1 keeps all.
        top_k: Number of most likely tokens that are kept; 0 keeps all.
        min_p: Share of the most likely token's probability that a token must have to be kept; 0
            keeps all.
        max_new_tokens: Most tokens of a completion, which is cut off there.
        eos_token_ids: Further tokens that end a completion, beside those that the model and its
            tokenizer name.
        stop_strings: Texts that end a completion, and are part of it.
    """

    group_size: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 1024
    eos_token_ids: Sequence[int] = field(default_factory=list)
    stop_strings: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises a ConfigError for a value out of range."""
        rules = {
            "group_size": (self.group_size >= 1, "must be at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "must be 0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "must be above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "must be 0 (off) or more"),
            "min_p": (0 <= self.min_p <= 1, "must be from 0 (off) to 1"),
            "stop_strings": ("" not in self.stop_strings, "must not hold an empty text"),
            "max_new_tokens": (self.max_new_tokens >= 1, "must be at least 1"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"sampling.{key}", getattr(self, key), rule=rule)

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are cut away before one is drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0
