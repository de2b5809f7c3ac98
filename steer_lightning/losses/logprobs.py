"""Log-probabilities of sampled tokens."""

from __future__ import annotations

import torch


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Computes log pi(y_t | y_<t) under the sampling distribution, temperature applied.

    A row at a time. Autograd keeps each row's float32 (T, V) for the backward pass: the micro-batch
    bounds the memory.

    Args:
        logits: (N, T, V), any float dtype; position t predicts token t.
        tokens: (N, T) int64.
        temperature: Above 0.

    Returns:
        (N, T) float32, in nats.
    """
    rows = []
    for row, chosen in zip(logits, tokens, strict=True):
        scaled = row.float() / temperature
        picked = scaled.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        rows.append(picked - scaled.logsumexp(-1))
    return torch.stack(rows)
