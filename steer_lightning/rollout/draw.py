"""Draws tokens by inverting the cumulative distribution, in two steps so that it stays cheap."""

from __future__ import annotations

import torch

from steer_lightning.rollout.sampling import Sampling

BLOCK = 512
"""Tokens are summed up in blocks: a plain cumulative sum over 262,144 tokens would take long."""


def warp(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits of the distribution that is sampled, up to a constant a row.

    Args:
        logits: (N, V).
        sampling: Temperature above 0, then top-k, min-p and top-p, in this order.

    Returns:
        (N, V) float32; -inf for tokens that are cut away.
    """
    logits = logits.float()
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if sampling.min_p > 0:
        least = logits.amax(-1, keepdim=True) + torch.tensor(sampling.min_p).log()
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        # the most likely token has 0 before it and always stays
        before = probabilities.cumsum(-1) - probabilities
        cut = (before >= sampling.top_p).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    return logits


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws one token a row.

    Args:
        logits: (N, V); overwritten, since a copy over a large vocabulary costs as much as a layer.
        uniforms: (N,) in [0, 1).
        sampling: The settings; temperature 0 takes the most likely token.

    Returns:
        Tokens (N,) int64, and their log-probabilities (N,) float32 under the sampled distribution.
        At temperature 0 these are of the distribution at temperature 1, since the greedy one has no
        information.
    """
    warped = logits.float() if sampling.temperature == 0 else warp(logits, sampling)
    largest, token = warped.max(-1, keepdim=True)
    weights = warped.sub_(largest).exp_()
    # float64: over 262,144 tokens a sum in float32 would miss 1 by more than a rare token's
    # probability; Apple's GPUs have none
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    blocks = _block_sums(weights).to(exact)
    if sampling.temperature != 0:
        token = _invert(weights, blocks, uniforms.to(blocks)[:, None])
    total = blocks.sum(-1, keepdim=True)
    logprobs = weights.gather(-1, token).log() - total.log().float()
    return token.squeeze(-1), logprobs.squeeze(-1)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """(N, V) to (N, number of blocks); the last block may be shorter."""
    whole = weights.shape[-1] // BLOCK * BLOCK
    sums = weights[:, :whole].view(len(weights), -1, BLOCK).sum(-1)
    if whole == weights.shape[-1]:
        return sums
    return torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)


def _invert(weights: torch.Tensor, blocks: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first token (N, 1) at which the cumulative weight exceeds uniform * total."""
    ends = blocks.cumsum(-1)
    target = uniforms * ends[:, -1:]
    block = _first_above(ends, target)
    # not below 0 by rounding: a first token of weight 0 would be taken then
    rest = (target - (ends.gather(-1, block) - blocks.gather(-1, block))).clamp(min=0)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, columns.clamp(max=weights.shape[-1] - 1)).to(blocks.dtype)
    inside = inside.masked_fill(columns >= weights.shape[-1], 0.0)
    return block * BLOCK + _first_above(inside.cumsum(-1), rest)


def _first_above(ends: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """First place (N, 1) whose end lies above the target, and whose weight is not 0."""
    last = ends[:, -1:]
    # rounded up to the last end it would land behind the last token that can be drawn
    target = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)
