"""What vectors are by themselves: their directions, and how many of them there are."""

from __future__ import annotations

import torch


def cosines(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle between each of our vectors and each of theirs.

    Args:
        ours: (L, D).
        theirs: (M, D).

    Returns:
        (L, M) float64 on the CPU; 0 where one of the two vectors is zero and has no direction.
    """
    return _directions(ours) @ _directions(theirs).T


def _directions(vectors: torch.Tensor) -> torch.Tensor:
    """(L, D) float64 of length 1; zeros stay zeros."""
    exact = vectors.detach().cpu().double()
    norms = exact.norm(dim=1, keepdim=True)
    return exact / torch.where(norms > 0, norms, 1)


def singular_values(vectors: torch.Tensor) -> torch.Tensor:
    """Singular values of the matrix of all vectors, in the scale of the stream.

    Args:
        vectors: V, (L, D).

    Returns:
        (min(L, D),) float64 on the CPU, the largest first.
    """
    values: torch.Tensor = torch.linalg.svdvals(vectors.detach().cpu().double())
    return values


def stable_rank(vectors: torch.Tensor) -> float:
    """How many directions share the vectors' energy: ||V||_F^2 / sigma_1^2.

    1 if all are multiples of one direction, L if L of equal length are orthogonal (Rudelson and
    Vershynin, arXiv math/0503442).

    Args:
        vectors: V, (L, D).

    Returns:
        From 1 to min(L, D); 0 if all vectors are zero.
    """
    energies = singular_values(vectors).square()
    return float(energies.sum() / energies[0]) if energies[0] > 0 else 0.0
