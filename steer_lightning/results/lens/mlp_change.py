"""What vectors change about the output of an MLP: how far it moves, and whether along the vector.

With m_t and m'_t, which the MLP adds to the stream of token t in the base and in the steered model,
d_t = m'_t - m_t, and the vector v:

    relative = mean_t |d_t| / |m_t|
    size     = mean_t |d_t| / |v|
    along    = mean_t d_t . v / |v|^2
    cosine   = mean_t d_t . v / (|d_t| |v|)

`along` tells what becomes of the vector: 1 if the MLP adds it a second time, -1 if it cancels it, 0
if what it adds is orthogonal. Feed-forward layers and attention have different tasks in arXiv
2406.03068, which removes parts of the former.

Degenerate cases: tokens with m_t = 0 are left out of `relative`, and tokens with d_t = 0 out of
`cosine`; without any token left, the mean is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class MlpChange:
    """The change of the output of an MLP, token by token."""

    base: torch.Tensor
    """Output of the base, (T, D)."""
    change: torch.Tensor
    """Output of the steered model minus that of the base, (T, D)."""


def joined(changes: Sequence[MlpChange]) -> MlpChange:
    """Returns the changes over several texts as one."""
    return MlpChange(
        base=torch.cat([one.base for one in changes]),
        change=torch.cat([one.change for one in changes]),
    )


def relative(found: MlpChange) -> float:
    """Computes the mean of |d_t| / |m_t|."""
    sizes = found.base.norm(dim=1)
    return _mean((found.change.norm(dim=1) / sizes)[sizes > 0])


def against_vector(found: MlpChange, vector: torch.Tensor) -> dict[str, float]:
    """Compares the change with the vector that has caused it.

    Args:
        found: Change of T tokens.
        vector: Vector (D,) in the stream, not zero.

    Returns:
        The figures `size`, `along` and `cosine`.
    """
    plain = vector.to(found.change)
    norm, sizes = plain.norm(), found.change.norm(dim=1)
    products = found.change @ plain
    moves = sizes > 0
    return {
        "size": _mean(sizes / norm),
        "along": _mean(products / norm.square()),
        "cosine": _mean(products[moves] / (sizes[moves] * norm)),
    }


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
