"""What vectors change about the output of an MLP: how far it moves, and whether along the vector.

With m_t and m'_t, which the MLP adds to the stream of token t in the base and in the steered model,
d_t = m'_t - m_t, and v_t, which the vector adds to the stream of that token:

    relative = mean_t |d_t| / |m_t|
    size     = sum_t |d_t| / sum_t |v_t|
    along    = sum_t d_t . v_t / sum_t |v_t|^2
    cosine   = mean_t d_t . v_t / (|d_t| |v_t|)

`along` tells what becomes of the vector: 1 if the MLP adds it a second time, -1 if it cancels it, 0
if what it adds is orthogonal. For a plain vector, v_t is the same for all tokens, and `size` and
`along` are means over the tokens. With a gate, v_t = g_t v, and tokens count by their gates: the
ratio of a token to which next to nothing was added would be noise. Feed-forward layers and
attention have different tasks in arXiv 2406.03068, which removes parts of the former.

Degenerate cases: tokens with m_t = 0 are left out of `relative`, and tokens with d_t = 0 or v_t = 0
out of `cosine`; without any token left, the mean is 0. If all v_t are 0, `size` and `along` are 0.
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
    vector: torch.Tensor | None = None
    """What the vector has added to the stream, (T, D); None if that is not known."""


def joined(changes: Sequence[MlpChange]) -> MlpChange:
    """Returns the changes over several texts as one."""
    vectors = [one.vector for one in changes if one.vector is not None]
    return MlpChange(
        base=torch.cat([one.base for one in changes]),
        change=torch.cat([one.change for one in changes]),
        vector=torch.cat(vectors) if vectors else None,
    )


def relative(found: MlpChange) -> float:
    """Computes the mean of |d_t| / |m_t|."""
    sizes = found.base.norm(dim=1)
    return _mean((found.change.norm(dim=1) / sizes)[sizes > 0])


def against_vector(found: MlpChange) -> dict[str, float | None]:
    """Compares the change with the vector that has caused it.

    Returns:
        The figures `size`, `along` and `cosine`; None for each if what the vector has added to the
        stream is not known.
    """
    if found.vector is None:
        return {"size": None, "along": None, "cosine": None}
    change, vector = found.change.double(), found.vector.double()
    norms, sizes = vector.norm(dim=1), change.norm(dim=1)
    products = (change * vector).sum(1)
    both = (sizes > 0) & (norms > 0)
    return {
        "size": _ratio(sizes, norms),
        "along": _ratio(products, norms.square()),
        "cosine": _mean((products / (sizes * norms))[both]),
    }


def _ratio(values: torch.Tensor, by: torch.Tensor) -> float:
    total = float(by.sum())
    return float(values.sum()) / total if total else 0.0


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
