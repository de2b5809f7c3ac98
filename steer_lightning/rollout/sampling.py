"""Settings of a rollout: how completions are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one kind of rollout. The defaults are the paper's.

    Attributes:
        group_size: Completions of each prompt, G.
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Keeps the smallest set of tokens whose probability reaches it; 1 keeps all.
        top_k: Keeps the k most likely tokens; 0 keeps all.
        min_p: Keeps tokens at least so likely as this share of the most likely one; 0 keeps all.
        max_new_tokens: A completion is cut off there.
        eos_token_ids: Further tokens that end a completion, beside those the model and its
            tokenizer name.
        stop_strings: Texts that end a completion; they are part of it.
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
