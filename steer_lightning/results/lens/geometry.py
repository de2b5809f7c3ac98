"""The geometry of vectors: their directions, and how many directions they have."""

from __future__ import annotations

import torch


def cosines(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Computes the cosine of the angle between each of our vectors and each of theirs.

    Args:
        ours: Our vectors, (L, D).
        theirs: Their vectors, (M, D).

    Returns:
        The cosines, (L, M) float64 on the CPU; 0 if one of the two vectors is zero and has no
        direction.
    """
    return _directions(ours) @ _directions(theirs).T


def _directions(vectors: torch.Tensor) -> torch.Tensor:
    """Scales vectors to length 1, (L, D) float64; vectors of zeros stay zeros."""
    exact = vectors.detach().cpu().double()
    norms = exact.norm(dim=1, keepdim=True)
    return exact / torch.where(norms > 0, norms, 1)


def singular_values(vectors: torch.Tensor) -> torch.Tensor:
    """Computes the singular values of the matrix of all vectors, in the scale of the stream.

    Args:
        vectors: Matrix V of the vectors, (L, D).

    Returns:
        The singular values, (min(L, D),) float64 on the CPU, largest first.
    """
    values: torch.Tensor = torch.linalg.svdvals(vectors.detach().cpu().double())
    return values


def stable_rank(vectors: torch.Tensor) -> float:
    """Measures how many directions share the vectors' energy: ||V||_F^2 / sigma_1^2.

    The stable rank is 1 if all vectors are multiples of one direction, and L if L vectors of equal
    length are orthogonal (Rudelson and Vershynin, arXiv math/0503442).

    Args:
        vectors: Matrix V of the vectors, (L, D).

    Returns:
        The stable rank, from 1 to min(L, D); 0 if all vectors are zero.
    """
    energies = singular_values(vectors).square()
    return float(energies.sum() / energies[0]) if energies[0] > 0 else 0.0
