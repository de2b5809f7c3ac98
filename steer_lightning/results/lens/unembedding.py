"""Which tokens vectors point to: their products with the rows of the unembedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHUNK_NUMBERS = 2**24
"""Numbers of the unembedding and of products that exist in float32 at once: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The first tokens of an order, for each vector."""

    ids: torch.Tensor
    """(L, K) int64, on the CPU."""
    scores: torch.Tensor
    """(L, K) float32, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class TokenRanks:
    """Tokens with the largest products and with the smallest, the most extreme first."""

    top: Ranked
    bottom: Ranked


@torch.no_grad()
def rank_tokens(
    vectors: torch.Tensor, unembedding: torch.Tensor, num_tokens: int
) -> dict[str, TokenRanks]:
    """Ranks the vocabulary by its products with each vector, a chunk of it at a time.

    `dot` is W_t . v: what v, entering the output layer as it is, adds to the logit of token t.
    `cosine` is the same divided by both norms; it does not favour tokens with long rows. A row or
    vector of zeros has cosine 0.

    Args:
        vectors: (L, D), any float dtype.
        unembedding: W, (V, D), any float dtype.
        num_tokens: K; at most V are returned.

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
    """Scores and ids of the best so far, with a chunk of scores whose first token is `first`."""
    ids = torch.arange(first, first + scores.shape[1], device=scores.device).expand_as(scores)
    if best is not None:
        scores, ids = torch.cat([best[0], scores], 1), torch.cat([best[1], ids], 1)
    found = scores.topk(min(count, scores.shape[1]), dim=1, largest=largest)
    return found.values, ids.gather(1, found.indices)


def _ranked(best: tuple[torch.Tensor, torch.Tensor]) -> Ranked:
    return Ranked(scores=best[0].cpu(), ids=best[1].cpu())
