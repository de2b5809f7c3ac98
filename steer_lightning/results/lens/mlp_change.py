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

import torch

from steer_lightning.system.float64 import in_float64


class MlpChange:
    """The change of the output of an MLP over texts, of which only sums are kept."""

    def __init__(self) -> None:
        self._num_tokens = 0
        self._total: torch.Tensor | float = 0.0  # sum of d_t, (D,) float64
        self._relative, self._cosine = _Ratio(), _Ratio()
        self._size, self._along = _Ratio(), _Ratio()
        self._is_compared = False

    def add(
        self, base: torch.Tensor, steered: torch.Tensor, vector: torch.Tensor | None = None
    ) -> None:
        """Adds T tokens of a text.

        Args:
            base: What the MLP adds to the stream in the base, (T, D).
            steered: What it adds in the steered model, (T, D).
            vector: What the vector has added to the stream, (T, D); None if that is not known.
        """
        change = in_float64(steered - base)
        sizes, before = change.norm(dim=1), in_float64(base).norm(dim=1)
        self._num_tokens += len(change)
        self._total = self._total + change.sum(0)
        self._relative.add_mean(sizes / before, before > 0)
        if vector is None:
            return
        self._is_compared = True
        vector = in_float64(vector)
        norms, products = vector.norm(dim=1), (change * vector).sum(1)
        self._size.add(sizes, norms)
        self._along.add(products, norms.square())
        self._cosine.add_mean(products / (sizes * norms), (sizes > 0) & (norms > 0))

    def relative(self) -> float:
        """Returns the mean of |d_t| / |m_t|."""
        return self._relative.value()

    def against_vector(self) -> dict[str, float | None]:
        """Compares the change with the vector that has caused it.

        Returns:
            The figures `size`, `along` and `cosine`; None for each if no vector has been given.
        """
        found = {"size": self._size, "along": self._along, "cosine": self._cosine}
        return {key: ratio.value() if self._is_compared else None for key, ratio in found.items()}

    def mean(self) -> torch.Tensor:
        """Returns the mean of d_t, (D,) float32; tokens must have been added."""
        assert isinstance(self._total, torch.Tensor)
        return (self._total / self._num_tokens).float()


class _Ratio:
    """A sum over tokens, by another; 0 if the latter is 0."""

    def __init__(self) -> None:
        self._values, self._by = 0.0, 0.0

    def add(self, values: torch.Tensor, by: torch.Tensor) -> None:
        self._values += float(values.sum())
        self._by += float(by.sum())

    def add_mean(self, values: torch.Tensor, kept: torch.Tensor) -> None:
        """Adds the tokens that are kept, each of which counts the same."""
        self.add(values[kept], kept)

    def value(self) -> float:
        return self._values / self._by if self._by else 0.0
