"""The vectors of the paper: one per steered decoder layer, stacked in one parameter."""

from __future__ import annotations

import torch
from torch import nn

from steer_lightning.steering.site_vectors import SiteVectors

OPTIMIZER_BLOCK = 256
"""Number of elements in a block in which bitsandbytes quantises optimizer state."""


class SteeringVectors(SiteVectors):
    """Vectors `v_l = unit_l * weight_l`, which are zero at the start.

    `h_l <- h_l + v_l` for every token (arXiv 2505.18706). Settings select other sites or only some
    of the tokens; see `SiteVectors`. `L * D` numbers are trained.

    All layers share one parameter: several small ones would be below the 4,096-element threshold of
    bitsandbytes and silently keep 32-bit optimizer state. Each row is padded to a multiple of 256,
    so that no quantisation block spans two layers whose gradients differ by orders of magnitude.
    The padding never gets a gradient.

    Attributes:
        weight: Vectors in units of `unit`, (L, D padded to a multiple of 256) float32 parameter.
    """

    rows_are_vectors = True
    weight: nn.Parameter

    def _make(self) -> None:
        padded = -(-self.width // OPTIMIZER_BLOCK) * OPTIMIZER_BLOCK
        self.weight = nn.Parameter(torch.zeros(len(self.layers), padded, dtype=torch.float32))

    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """Returns one plain vector; see `SiteVectors.plain`."""
        return self.weight[row, : self.width] * (self.unit[row] * scale)

    @property
    def vectors(self) -> torch.Tensor:
        """Plain vectors at the scale of the stream, (L, D) float32; differentiable."""
        return self.weight[:, : self.width] * self.unit[:, None]

    def _set_in_units(self, vectors: torch.Tensor) -> None:
        self.weight[:, : self.width] = vectors

    @property
    def num_trained(self) -> int:
        """Number of trained numbers, `L * D`, without padding."""
        return len(self.layers) * self.width
