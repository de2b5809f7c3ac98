"""Vectors that a handful of numbers determine, through a fixed random projection."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.site_vectors import SiteVectors
from steer_lightning.system.seeds import check_seed

LARGEST = 2**30
"""Largest number of numbers in a projection, 4 GiB in float32."""


class ProjectedVectors(SiteVectors):
    """Vectors of all layers from k trained numbers.

    `S = U sum_i a_i P_i / sqrt(k)`, with the vectors S (L, D); the P_i (L, D) are drawn once from a
    normal distribution and stay fixed, and U are the units, one factor per layer. Only a, k
    numbers, is trained. It starts at zero. Because of the root, numbers of size c give vectors of
    about size c, whatever k is. With k = L * D the vectors are in general not restricted. That a
    task can be learned in a random subspace of few dimensions is measured in arXiv 1804.08838;
    TinyLoRA (arXiv 2602.04118) does the same with changes of weights.

    The projection takes `4 k L D` bytes of memory: 400 MB for k = 1,000 on 28 layers of width
    3,584. Checkpoints do not hold it, since the seed draws it again, on the CPU. PyTorch does not
    promise the same random numbers in every version, so they hold a sample of it: a checkpoint
    whose sample differs by more than rounding is refused.

    Args:
        count: Number k of trained numbers; at most L * D, and such that the projection has at most
            2^30 numbers.
        seed: Seed of the projection.
        kwargs: Further arguments of `SiteVectors`.

    Attributes:
        numbers: Trained numbers a, (k,) float32 parameter.
        projection: Fixed P / sqrt(k), (k, L, D) float32 buffer, not in checkpoints.
        sample: About a hundred numbers of the projection, spread evenly, a float32 buffer.
    """

    numbers: nn.Parameter
    projection: torch.Tensor
    sample: torch.Tensor

    def __init__(self, count: int = 13, seed: int = 0, **kwargs: Any) -> None:
        if count < 1:
            raise ConfigError("model.steering.count", count, rule="must be at least 1")
        check_seed("model.steering.seed", seed)
        super().__init__(**kwargs)
        self.count, self.seed = count, seed

    def _make(self) -> None:
        shape = (len(self.layers), self.width)
        if self.count > math.prod(shape):
            raise ConfigError(
                "model.steering.count",
                self.count,
                rule=f"must be at most {math.prod(shape)}: model.steering.layers = "
                f"{self.chosen!r} means {shape[0]} vectors of width {self.width}",
                why="The vectors have no more numbers than that",
                fix="Lower it, or use steer_lightning.steering.SteeringVectors",
            )
        if self.count > (most := LARGEST // math.prod(shape)):
            raise ConfigError(
                "model.steering.count",
                self.count,
                rule=f"must be at most {most} for {shape[0]} vectors of width {shape[1]}",
                why=f"The projection has a row of {math.prod(shape)} numbers for each, and may "
                f"have {LARGEST} in all, 4 GiB",
            )
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.count, *shape, generator=generator) / math.sqrt(self.count)
        self.register_buffer("projection", drawn, persistent=False)
        self.register_buffer("sample", drawn.flatten()[:: max(1, drawn.numel() // 64)].clone())
        self.numbers = nn.Parameter(torch.zeros(self.count))

    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """Returns one plain vector; see `SiteVectors.plain`."""
        return (self.numbers @ self.projection[:, row]) * (self.unit[row] * scale)

    def _set_in_units(self, vectors: torch.Tensor) -> None:
        """Sets the nearest vectors, by least squares."""
        columns = self.projection.flatten(1).T
        self.numbers.copy_(torch.linalg.pinv(columns) @ vectors.flatten())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Refuses a checkpoint whose numbers are those of another projection."""
        theirs = state_dict.get(f"{prefix}sample")
        if theirs is not None and theirs.shape == self.sample.shape:
            away = (theirs.to(self.sample) - self.sample).abs().max()
            if not bool(away <= 1e-3 * self.sample.abs().max()):
                raise ConfigError(
                    "model.steering.seed",
                    self.seed,
                    rule="draws another projection here than in the checkpoint",
                    why="The random numbers of PyTorch may differ between its versions",
                    fix="Use the seed and the version of PyTorch with which the run began",
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        noun = "number" if self.count == 1 else "numbers"
        return f"{super().describe()}, projected from {self.count} {noun}"

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        own = {"model.steering.count": self.count, "model.steering.seed": self.seed}
        return {**super().facts(), **own}
