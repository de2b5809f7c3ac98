"""Log-probabilities of sampled tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CHUNK_NUMBERS = 2**24
"""Logits that exist at once: 64 MB in float32."""


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Computes log pi(y_t | y_<t) under the sampling distribution, temperature applied.

    Args:
        logits: (..., V), any float dtype.
        tokens: (...) int64.
        temperature: Above 0.

    Returns:
        (...) float32, in nats.
    """
    scaled = logits.float() / temperature
    picked = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return picked - scaled.logsumexp(-1)


class _ChunkedLogprobs(torch.autograd.Function):
    """Log-probabilities a chunk at a time, so that (Q, V) logits never exist, nor their gradient.

    log pi_t depends on its own hidden state alone, so its gradient d log pi_t / d h_t is a vector
    of width D: it is computed while the chunk's logits are there, and kept instead of them.
    Nothing is computed twice, and the frozen head gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        tokens: torch.Tensor,
        head: Callable[[torch.Tensor], torch.Tensor],
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        found: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        chunks = zip(torch.split(hidden, chunk), torch.split(tokens, chunk), strict=True)
        for states, chosen in chunks:
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = states.detach().requires_grad_(ctx.needs_input_grad[0])
                logprobs = token_logprobs(head(leaf), chosen, temperature)
                if ctx.needs_input_grad[0]:
                    slopes += torch.autograd.grad(logprobs.sum(), leaf)
            found.append(logprobs.detach())
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grads[0].unsqueeze(-1)).to(slopes.dtype), None, None, None, None


def hidden_logprobs(
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    vocabulary: int,
    temperature: float,
) -> torch.Tensor:
    """Computes log pi(y_t | y_<t) from the states that enter the head.

    Args:
        hidden: (Q, D).
        tokens: (Q,) int64.
        head: From (q, D) to logits (q, V); frozen.
        vocabulary: V.
        temperature: Above 0.

    Returns:
        (Q,) float32, in nats.
    """
    chunk = max(1, CHUNK_NUMBERS // vocabulary)
    logprobs: torch.Tensor = _ChunkedLogprobs.apply(hidden, tokens, head, temperature, chunk)  # type: ignore[no-untyped-call]
    return logprobs
