"""Ranks tokens by the products of vectors with the rows of the unembedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK_NUMBERS = 2**24
"""Number of float32 numbers, of the unembedding and of products, in memory at once: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The first tokens of an order, for each vector."""

    ids: torch.Tensor
    """Ids of the tokens, (L, K) int64, on the CPU."""
    scores: torch.Tensor
    """Scores of the tokens, (L, K) float32, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class TokenRanks:
    """The tokens with the largest and the smallest products, most extreme first."""

    top: Ranked
    bottom: Ranked


@torch.no_grad()
def rank_tokens(
    vectors: torch.Tensor, unembedding: torch.Tensor, num_tokens: int
) -> dict[str, TokenRanks]:
    """Ranks the vocabulary by its products with each vector, a chunk of it at a time.

    `dot` is W_t . v: the amount by which v changes the logit of token t if it enters the output
    layer unchanged. `cosine` is that product divided by both norms; it does not favour tokens with
    long rows. A row or vector of zeros has cosine 0.

    Args:
        vectors: Vectors (L, D) of any float dtype.
        unembedding: Matrix W of the unembedding, (V, D), of any float dtype.
        num_tokens: Number K of tokens to return; at most V are returned.

    Returns:
        The ranks by `dot` and by `cosine`.
    """
    ours = vectors.to(unembedding.device, torch.float32)
    norms = ours.norm(dim=1, keepdim=True)
    best: dict[tuple[str, bool], tuple[torch.Tensor, torch.Tensor]] = {}
    size = max(1, CHUNK_NUMBERS // sum(ours.shape))
    for first in range(0, len(unembedding), size):
        rows = unembedding[first : first + size].float()
        dots = ours @ rows.T  # (L, rows)
        lengths = norms * rows.norm(dim=1)
        scores = {"dot": dots, "cosine": dots / torch.where(lengths > 0, lengths, 1)}
        for name, found in scores.items():
            for largest in (True, False):
                key = name, largest
                best[key] = _merged(best.get(key), found, first, num_tokens, largest)
    return {
        name: TokenRanks(top=_ranked(best[name, True]), bottom=_ranked(best[name, False]))
        for name in ("dot", "cosine")
    }


def _merged(
    best: tuple[torch.Tensor, torch.Tensor] | None,
    scores: torch.Tensor,
    first: int,
    count: int,
    largest: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merges the best scores and ids so far with a chunk of scores from token `first` on."""
    ids = torch.arange(first, first + scores.shape[1], device=scores.device).expand_as(scores)
    if best is not None:
        scores, ids = torch.cat([best[0], scores], 1), torch.cat([best[1], ids], 1)
    found = scores.topk(min(count, scores.shape[1]), dim=1, largest=largest)
    return found.values, ids.gather(1, found.indices)


def _ranked(best: tuple[torch.Tensor, torch.Tensor]) -> Ranked:
    return Ranked(scores=best[0].cpu(), ids=best[1].cpu())
