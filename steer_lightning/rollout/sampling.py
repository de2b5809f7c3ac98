"""The settings by which the completions of a rollout are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer_lightning.errors import ConfigError

GREEDY_BELOW = 1e-5
"""Temperature below which sampling is greedy: logits that are divided by less may overflow."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one kind of rollout. The defaults are the paper's.

    Attributes:
        group_size: Number of completions of each prompt, G.
        temperature: Number by which the logits are divided; 0, like any number below 1e-5, always
            takes the most likely token.
        top_p: Nucleus sampling: only the smallest set of most likely tokens whose probabilities add
            up to `top_p` is kept, and at least one token; 1 keeps all tokens.
        top_k: Number of most likely tokens to keep; 0 keeps all.
        min_p: Smallest probability of a token that is kept, as a share of the probability of the
            most likely token; 0 keeps all.
        max_new_tokens: Maximum number of tokens in a completion; longer ones are cut off there.
        eos_token_ids: Token ids that end a completion, in addition to those that the model and its
            tokenizer define.
        stop_strings: Texts that end a completion; the stop string itself is part of the completion.
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
            "top_p": (0 <= self.top_p <= 1, "must be from 0 (one token) to 1 (off)"),
            "top_k": (self.top_k >= 0, "must be 0 (off) or more"),
            "min_p": (0 <= self.min_p <= 1, "must be from 0 (off) to 1"),
            "stop_strings": ("" not in self.stop_strings, "must not contain an empty text"),
            "max_new_tokens": (self.max_new_tokens >= 1, "must be at least 1"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"sampling.{key}", getattr(self, key), rule=rule)

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are excluded before a token is drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0
