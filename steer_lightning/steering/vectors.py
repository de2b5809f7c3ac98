"""The paper's way: one vector per steered decoder layer, in one stacked parameter."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Batches, Steering
from steer_lightning.steering.hooks import HookedVectors
from steer_lightning.steering.layers import find_layers, parse_layers, stream_width
from steer_lightning.steering.units import measure_rms

log = logging.getLogger(__name__)

OPTIMIZER_BLOCK = 256
"""bitsandbytes quantises an optimizer's state in blocks of 256 elements of a parameter."""


class SteeringVectors(Steering):
    """Vectors v_l = unit_l * weight_l, zero at the start.

    `h_l <- h_l + v_l` for every token (arXiv 2505.18706).

    All layers share one parameter: several small ones would fall under bitsandbytes' 4,096-element
    threshold and silently keep 32-bit optimizer state. Each row is padded to a multiple of 256, so
    that no quantisation block straddles two layers whose gradients differ by orders of magnitude.
    The padding never gets a gradient.

    Args:
        layers: `all`, a range such as `"8-15"` with both ends, or a list of 0-based indices.
        scale: `rms` trains each vector in units of its layer's typical activation size, measured
            once on the first batch of prompts, so that one learning rate serves streams of any
            size; `none` is the paper's parametrisation.
        init_from: A vectors file to start from; null starts at zero.
        layers_path: Dotted path of the model's decoder layers, where they are not found by
            themselves.

    Attributes:
        layers: 0-based indices of the L steered decoder layers, ascending; once built.
        width: Width D of the residual stream; once built.
        num_layers: Number of decoder layers of the model; 0 until built.
        weight: (L, D padded to a multiple of 256) float32 parameter, in units of `unit`.
        unit: (L,) float32 buffer, the size of one unit in each layer; 1 is the paper's own
            parametrisation.
        units_measured: bool buffer, True once `set_unit` has been called.

    Raises:
        ConfigError: If the form of `layers` is wrong, or `init_from` is missing.
    """

    file_name = "steering_vectors.safetensors"
    layers: tuple[int, ...]
    width: int
    num_layers: int
    weight: nn.Parameter
    unit: torch.Tensor
    units_measured: torch.Tensor

    def __init__(
        self,
        layers: str | list[int] = "all",
        scale: Literal["rms", "none"] = "rms",
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        parse_layers(layers)
        if init_from is not None and not Path(init_from).is_file():
            raise ConfigError("model.steering.init_from", init_from, rule="there is no such file")
        self.chosen, self.scale = layers, scale
        self.init_from, self.layers_path = init_from, layers_path
        self.metadata = {}
        self.num_layers = 0  # until it is built

    # ---- making

    def build(self, model: nn.Module) -> None:
        """See `Steering.build`."""
        width, num_layers = stream_width(model), len(find_layers(model, self.layers_path))
        if self.num_layers:
            self._check_fit(type(model).__name__, width, num_layers)
            return
        self.shaped(width, num_layers)
        if self.init_from is not None:
            self._start_from(self.init_from, getattr(model, "name_or_path", ""))

    def shaped(self, width: int, num_layers: int) -> SteeringVectors:
        """Makes the parameter for a model of this width and number of decoder layers.

        Raises:
            ConfigError: If `layers` are out of range.
        """
        self.layers = parse_layers(self.chosen, num_layers)
        self.width, self.num_layers = width, num_layers
        padded = -(-width // OPTIMIZER_BLOCK) * OPTIMIZER_BLOCK
        self.weight = nn.Parameter(torch.zeros(len(self.layers), padded, dtype=torch.float32))
        self.register_buffer("unit", torch.ones(len(self.layers), dtype=torch.float32))
        self.register_buffer("units_measured", torch.tensor(False))
        return self

    def _start_from(self, path: str, base: str) -> None:
        from steer_lightning.steering.io import load_vectors

        vectors = load_vectors(path)
        theirs = (vectors.layers, vectors.width, vectors.num_layers)
        if theirs != (self.layers, self.width, self.num_layers):
            raise ConfigError(
                "model.steering.init_from",
                path,
                rule=f"holds layers {list(theirs[0])} of {theirs[2]} and width {theirs[1]}; this "
                f"run trains layers {list(self.layers)} of {self.num_layers} and width "
                f"{self.width}",
            )
        self.set_vectors(vectors.vectors)
        warn_of_another_base(vectors, base)

    def _check_fit(self, model: str, width: int, num_layers: int) -> None:
        found = {"width": self.width, "decoder layers": self.num_layers}
        needed = {"width": width, "decoder layers": num_layers}
        for what, value in found.items():
            if value != needed[what]:
                base = self.metadata.get("base_model")
                raise ConfigError(
                    "vectors",
                    f"{what} {value}",
                    rule=f"the model {model} has {what} {needed[what]}",
                    why=f"These vectors were trained on {base!r}"
                    if base
                    else "The vectors are of another model",
                    fix="Use vectors of this model, or the model that they were trained on",
                )

    # ---- using

    def attach(self, model: nn.Module, scale: float = 1.0) -> HookedVectors:
        """See `Steering.attach`."""
        return HookedVectors(find_layers(model, self.layers_path), self, scale)

    @property
    def vectors(self) -> torch.Tensor:
        """(L, D) float32, the plain vectors in the scale of the stream; differentiable."""
        return self.weight[:, : self.width] * self.unit[:, None]

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

    # ---- units

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Sets the units to the size of the base's own stream, once; `scale: none` keeps 1."""
        if self.scale == "none" or bool(self.units_measured):
            return
        plain = self.vectors.detach().clone()
        self.set_unit(
            measure_rms(model, find_layers(model, self.layers_path), self.layers, batches)
        )
        self.set_vectors(plain)

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

    # ---- telling

    @property
    def num_trained(self) -> int:
        """Trained numbers, L * D; the padding is not one of them."""
        return len(self.layers) * self.width

    def describe(self) -> str:
        """See `Steering.describe`."""
        return f"{len(self.layers)} vectors of width {self.width}"

    def facts(self) -> dict[str, Any]:
        """See `Steering.facts`."""
        return {
            "model.steering.layers": list(self.layers),
            "model.steering.scale": self.scale,
            "number of decoder layers": self.num_layers,
            "width": self.width,
        }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Norms of the plain vectors, and their size: 1 is as large as a typical activation."""
        norms = self.vectors.norm(dim=1)
        sizes = norms / (self.unit * self.width**0.5)
        return {
            "norm_mean": norms.mean().item(),
            "norm_max": norms.max().item(),
            "size_in_units": sizes.mean().item(),
        }

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """See `Steering.save`."""
        from steer_lightning.steering.io import save_vectors

        save_vectors(self, path, base_model=base_model, revision=revision, step=step)


def warn_of_another_base(steering: Steering, base: str) -> None:
    """Says so if vectors that fit were trained on a model of another name.

    They may well serve: vectors carry over within a family.
    """
    trained_on = steering.metadata.get("base_model", "")
    if trained_on and base and Path(trained_on).name != Path(base).name:
        log.warning("these vectors were trained on %s, not on %s", trained_on, base)
