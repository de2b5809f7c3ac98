"""The only trainable thing: one vector per steered decoder layer, in one stacked parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from steer_lightning.errors import ConfigError

OPTIMIZER_BLOCK = 256
"""bitsandbytes quantises an optimizer's state in blocks of 256 elements of a parameter."""


class SteeringVectors(nn.Module):
    """Vectors v_l = unit_l * weight_l, zero at the start.

    `h_l <- h_l + v_l` for every token (arXiv 2505.18706).

    All layers share one parameter: several small ones would fall under bitsandbytes' 4,096-element
    threshold and silently keep 32-bit optimizer state. Each row is padded to a multiple of 256, so
    that no quantisation block straddles two layers whose gradients differ by orders of magnitude.
    The padding never gets a gradient.

    Args:
        layers: 0-based indices of the steered decoder layers, ascending; L of them.
        width: Width D of the residual stream.
        num_layers: Number of decoder layers of the model.
        metadata: What a file says about its vectors, such as `base_model` and `step`.

    Attributes:
        weight: (L, D padded to a multiple of 256) float32 parameter, in units of `unit`.
        unit: (L,) float32 buffer, the size of one unit in each layer; 1 is the paper's own
            parametrisation.
        units_measured: bool buffer, True once `set_unit` has been called.
    """

    weight: nn.Parameter
    unit: torch.Tensor
    units_measured: torch.Tensor

    def __init__(
        self,
        layers: Sequence[int],
        width: int,
        num_layers: int,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.width = width
        self.num_layers = num_layers
        self.metadata = dict(metadata or {})
        padded = -(-width // OPTIMIZER_BLOCK) * OPTIMIZER_BLOCK
        self.weight = nn.Parameter(torch.zeros(len(self.layers), padded, dtype=torch.float32))
        self.register_buffer("unit", torch.ones(len(self.layers), dtype=torch.float32))
        self.register_buffer("units_measured", torch.tensor(False))

    @property
    def vectors(self) -> torch.Tensor:
        """(L, D) float32, the plain vectors in the scale of the stream; differentiable."""
        return self.weight[:, : self.width] * self.unit[:, None]

    @property
    def num_trained(self) -> int:
        """Trained numbers, L * D; the padding is not one of them."""
        return len(self.layers) * self.width

    @torch.no_grad()
    def set_unit(self, unit: torch.Tensor) -> None:
        """Sets the size of one unit per layer, before any training.

        Args:
            unit: (L,) positive.

        Raises:
            ConfigError: If a unit is not positive and finite: a vector in such units could not be
                trained.
        """
        usable = torch.isfinite(unit) & (unit > 0)
        if not bool(usable.all()):
            wrong = [self.layers[row] for row in (~usable).nonzero().flatten().tolist()]
            raise ConfigError(
                "model.steering.scale",
                "rms",
                rule=f"the activations of layers {wrong} have no usable size",
                why="They are 0, infinite or NaN: damaged weights, or a dtype out of range",
                fix="Check model.base and model.dtype, leave these layers out by "
                "model.steering.layers, or set model.steering.scale: none",
            )
        self.unit.copy_(unit)
        self.units_measured.fill_(True)

    @torch.no_grad()
    def set_vectors(self, vectors: torch.Tensor) -> None:
        """Sets the plain vectors.

        Args:
            vectors: (L, D).

        Raises:
            ValueError: If the shape is another.
        """
        if tuple(vectors.shape) != (len(self.layers), self.width):
            raise ValueError(
                f"vectors have shape {tuple(vectors.shape)}, need {(len(self.layers), self.width)}"
            )
        self.weight[:, : self.width] = vectors.to(self.weight) / self.unit[:, None]
