"""Vectors that need fewer numbers because all layers share a few directions."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.site_vectors import SiteVectors
from steer_lightning.system.seeds import check_seed


class LowRankVectors(SiteVectors):
    """Vectors that are mixtures of `rank` directions.

    `S = U A B`, with the vectors S (L, D), scales A (L, r) and directions B (r, D); U are the
    units, one factor per layer. With rank 1 there is one shared vector, with a scale for each
    layer. `L * r + r * D` numbers are trained. At the start B is zero and A holds smooth profiles
    over the depth, `a_lk = sqrt(2 / r) cos(pi k (l + 1/2) / L)`, without the 2 for k = 0, so that
    rank 1 starts as the same vector in all layers.

    With `directions: random`, B is drawn once from a normal distribution and stays fixed. A starts
    at zero, and `L * r` numbers are trained: a single number for rank 1 and one layer.

    Args:
        rank: Number r of directions; at most the smaller of L and D.
        directions: Whether the directions are `trained`, or `random` and fixed.
        seed: Seed of the random directions.
        kwargs: Further arguments of `SiteVectors`.

    Attributes:
        scales: Matrix A, (L, r) float32 parameter.
        directions: Matrix B, (r, D) float32: a parameter, or a buffer if it is fixed.
    """

    scales: nn.Parameter
    directions: torch.Tensor

    def __init__(
        self,
        rank: int = 1,
        directions: Literal["trained", "random"] = "trained",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if rank < 1:
            raise ConfigError("model.steering.rank", rank, rule="must be at least 1")
        check_seed("model.steering.seed", seed)
        super().__init__(**kwargs)
        self.rank, self.fixed, self.seed = rank, directions == "random", seed

    def _make(self) -> None:
        count, rank = len(self.layers), self.rank
        if rank > min(count, self.width):
            raise ConfigError(
                "model.steering.rank",
                rank,
                rule=f"must be at most {min(count, self.width)}: model.steering.layers = "
                f"{self.chosen!r} means {count} vectors of width {self.width}",
                why="More directions than that add nothing",
                fix="Lower it, or use steer_lightning.steering.SteeringVectors",
            )
        if self.fixed:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(rank, self.width, generator=generator)
            self.register_buffer("directions", drawn)
            self.scales = nn.Parameter(torch.zeros(count, rank))
            return
        depth = (torch.arange(count) + 0.5)[:, None] * torch.arange(rank) * (math.pi / count)
        profiles = depth.cos() * math.sqrt(2 / rank)
        profiles[:, 0] = math.sqrt(1 / rank)
        self.scales = nn.Parameter(profiles)
        self.directions = nn.Parameter(torch.zeros(rank, self.width))

    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """Returns one plain vector; see `SiteVectors.plain`."""
        return (self.scales[row] @ self.directions) * (self.unit[row] * scale)

    def _set_in_units(self, vectors: torch.Tensor) -> None:
        """Sets the nearest mixture, by least squares or from the leading singular vectors."""
        if self.fixed:
            self.scales.copy_(vectors @ torch.linalg.pinv(self.directions))
            return
        left, sizes, right = torch.linalg.svd(vectors, full_matrices=False)
        size = math.sqrt(len(self.layers) / self.rank)  # also the norm of A's columns at the start
        self.scales.copy_(left[:, : self.rank] * size)
        self.directions.copy_(right[: self.rank] * sizes[: self.rank, None] / size)

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        kind = "fixed" if self.fixed else "trained"
        return f"{super().describe()}, mixtures of {self.rank} {kind} directions"

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        return {
            **super().facts(),
            "model.steering.rank": self.rank,
            "model.steering.directions": "random" if self.fixed else "trained",
        }
