"""Log-probabilities of sampled tokens."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Head:
    """A language model's frozen output layer: logits = softcap(W h + b).

    Attributes:
        weight: W, (V, D).
        bias: b, (V,), or None.
        softcap: c of c * tanh(x / c), as in Gemma 2; None for none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(Q, V) float32 of states (Q, D)."""
        raw = torch.nn.functional.linear(states, self.weight, self.bias).float()
        return raw if self.softcap is None else raw.div_(self.softcap).tanh_().mul_(self.softcap)


class _ChunkedLogprobs(torch.autograd.Function):
    """Log-probabilities a chunk at a time, so that (Q, V) logits never exist, nor their gradient.

    log pi(y | h) depends on its own hidden state alone, and its gradient is a vector of width D,

        d log pi / d h = (f_y W_y - sum_v p_v f_v W_v) / temperature,    f_v = 1 - (logit_v / c)^2,

    f = 1 without softcap. It is computed while the chunk's logits are there, and kept instead of
    them: nothing is computed twice, and the frozen head gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        tokens: torch.Tensor,
        head: Head,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        logprobs: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for states, chosen in zip(
            torch.split(hidden, chunk), torch.split(tokens, chunk), strict=True
        ):
            found, slope = _chunk(states, chosen, head, temperature, ctx.needs_input_grad[0])
            logprobs.append(found)
            slopes += [slope] if slope is not None else []
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grads[0].unsqueeze(-1)).to(slopes.dtype), None, None, None, None


def _chunk(
    states: torch.Tensor, tokens: torch.Tensor, head: Head, temperature: float, needs_slope: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities (q,) and their slopes (q, D); the one buffer of logits is reused."""
    logits = head.logits(states)
    steep = None if head.softcap is None else 1 - (logits / head.softcap).square_()
    if temperature != 1:
        logits.div_(temperature)
    index = tokens.unsqueeze(-1)
    picked = logits.gather(-1, index)
    largest = logits.amax(-1, keepdim=True)
    weights = logits.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    logprobs = (picked - largest - total.log()).squeeze(-1)
    if not needs_slope:
        return logprobs, None
    rows = head.weight[tokens]
    if steep is not None:
        rows = rows * steep.gather(-1, index).to(rows.dtype)
        weights.mul_(steep)
    mean = (weights.to(head.weight.dtype) @ head.weight) / total.to(head.weight.dtype)
    return logprobs, (rows - mean) / temperature


def hidden_logprobs(
    hidden: torch.Tensor, tokens: torch.Tensor, head: Head, temperature: float
) -> torch.Tensor:
    """Computes log pi(y_t | y_<t) from the states that enter the head.

    Args:
        hidden: (Q, D).
        tokens: (Q,) int64.
        head: Frozen.
        temperature: Above 0.

    Returns:
        (Q,) float32, in nats.
    """
    chunk = max(1, CHUNK_NUMBERS // len(head.weight))
    found: torch.Tensor = _ChunkedLogprobs.apply(hidden, tokens, head, temperature, chunk)  # type: ignore[no-untyped-call]
    return found
