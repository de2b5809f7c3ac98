"""How completions are sampled: settings, seeds, and the draw itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from steer_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one kind of rollout. The defaults are the paper's.

    Attributes:
        group_size: Completions of each prompt, G.
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Keeps the smallest set of tokens whose probability reaches it; 1 keeps all.
        top_k: Keeps the k most likely tokens; 0 keeps all.
        max_new_tokens: A completion is cut off there.
        eos_token_ids: Further tokens that end a completion, beside those the model and its
            tokenizer name.
    """

    group_size: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 1024
    eos_token_ids: Sequence[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises a ConfigError for a value out of range."""
        rules = {
            "group_size": (self.group_size >= 1, "must be at least 1"),
            "temperature": (self.temperature >= 0, "must be 0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "must be above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "must be 0 (off) or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "must be at least 1"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"sampling.{key}", getattr(self, key), rule=rule)


def row_uniforms(
    seed: int, step: int, prompt_ids: Sequence[int], group_size: int, length: int
) -> torch.Tensor:
    """One stream of random numbers a row, from (seed, step, prompt, sample) alone.

    A row's stream does not depend on which other rows share its batch, so that neither batching nor
    the number of processes changes what is sampled.

    Args:
        seed: Seed of the run.
        step: Optimizer step.
        prompt_ids: B ids.
        group_size: G.
        length: Numbers a row, T.

    Returns:
        (B * G, T) float64 in [0, 1).
    """
    rows = [
        np.random.Generator(
            np.random.Philox(np.random.SeedSequence((seed, step, prompt, sample)))
        ).random(length)
        for prompt in prompt_ids
        for sample in range(group_size)
    ]
    return torch.from_numpy(np.stack(rows))


def warp(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Log-probabilities of the distribution that is sampled.

    Args:
        logits: (N, V).
        sampling: Temperature above 0, top-k and then top-p.

    Returns:
        (N, V) float32; -inf for tokens that are cut away.
    """
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = (
            probabilities.cumsum(-1) - probabilities
        )  # the most likely token has 0 before it and always stays
        cut = (before >= sampling.top_p).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    return torch.log_softmax(logits, -1)


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws one token a row by inverting the cumulative distribution.

    Args:
        logits: (N, V).
        uniforms: (N,) in [0, 1).
        sampling: The settings; temperature 0 takes the most likely token.

    Returns:
        Tokens (N,) int64, and their log-probabilities (N,) float32 under the sampled distribution.
        At temperature 0 these are of the distribution at temperature 1, since the greedy one has no
        information.
    """
    if sampling.temperature == 0:
        logprobs = torch.log_softmax(logits.float(), -1)
        token = logprobs.argmax(-1)
    else:
        logprobs = warp(logits, sampling)
        # float64: over 262,144 tokens the sum in float32 would miss 1 by more than a rare token's
        # probability
        exact = (
            torch.float32 if logits.device.type == "mps" else torch.float64
        )  # Apple's GPUs have no float64
        cumulative = logprobs.to(exact).exp().cumsum(-1)
        total = cumulative[:, -1:]
        target = uniforms.to(exact).to(cumulative.device).unsqueeze(-1) * total
        # rounded up to the total it would land behind the last token that can be drawn
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token, logprobs.gather(-1, token.unsqueeze(-1)).squeeze(-1)
