"""What is common to vectors that are added at a place of each decoder layer."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import Self

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Batches, Steering
from steer_lightning.steering.layers import find_layers, parse_layers, stream_width
from steer_lightning.steering.sites import Site, find_sites
from steer_lightning.steering.tokens import Tokens
from steer_lightning.steering.units import measure_rms
from steer_lightning.steering.vector_hooks import HookedVectors
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)


class SiteVectors(Steering):
    """Vectors v_l in units of the activations of their places; how they come about is a subclass's.

    Args:
        layers: `all`, a range such as `"8-15"` with both ends, or a list of 0-based indices.
        site: Where in a layer the vector is added: to its output as in the paper, or to the output
            of its input norm, of its attention, of the norm before its MLP, or of its MLP.
        tokens: Which tokens are steered: all, those of the prompt, those of the completion, or the
            last one of the prompt alone.
        scale: `rms` trains each vector in units of its place's typical activation size, measured
            once on the first batch of prompts, so that one learning rate serves streams of any
            size; `none` is the paper's parametrisation.
        init_from: A vectors file to start from; null starts at zero.
        layers_path: Dotted path of the model's decoder layers, where they are not found by
            themselves.

    Attributes:
        layers: 0-based indices of the L steered decoder layers, ascending; once built.
        width: Width D of the residual stream; once built.
        num_layers: Number of decoder layers of the model; 0 until built.
        unit: (L,) float32 buffer, the size of one unit in each layer; 1 is the paper's own
            parametrisation.
        units_measured: bool buffer, True once `set_unit` has been called.
        by_token: Whether `gate` scales the vector for each token.
        saved_as: The kind that its file is of; mixtures are saved as the vectors that they make.
        result_names: Names of the tensors in its file.

    Raises:
        ConfigError: If the form of `layers` is wrong, or `init_from` is missing.
    """

    file_name = "steering_vectors.safetensors"
    saved_as = "SteeringVectors"
    result_names: tuple[str, ...] = ("vectors",)
    by_token = False
    layers: tuple[int, ...]
    width: int
    num_layers: int
    unit: torch.Tensor
    units_measured: torch.Tensor

    def __init__(
        self,
        layers: str | list[int] = "all",
        site: Site = "layer_output",
        tokens: Tokens = "all",
        scale: Literal["rms", "none"] = "rms",
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        parse_layers(layers)
        if init_from is not None and not Path(init_from).is_file():
            raise ConfigError("model.steering.init_from", init_from, rule="there is no such file")
        self.chosen, self.site, self.tokens, self.scale = layers, site, tokens, scale
        self.init_from, self.layers_path = init_from, layers_path
        self.metadata = {}
        self.num_layers = 0

    # ---- making

    def build(self, model: nn.Module) -> None:
        """See `Steering.build`."""
        width, layers = stream_width(model), find_layers(model, self.layers_path)
        if self.num_layers:
            self._check_fit(type(model).__name__, width, len(layers))
        else:
            self.shaped(width, len(layers))
            if self.init_from is not None:
                self._start_from(self.init_from, getattr(model, "name_or_path", ""))
        find_sites(layers, self.layers, self.site)

    def shaped(self, width: int, num_layers: int) -> Self:
        """Makes the parameters for a model of this width and number of decoder layers.

        Raises:
            ConfigError: If `layers` are out of range.
        """
        self.layers = parse_layers(self.chosen, num_layers)
        self.width, self.num_layers = width, num_layers
        self.register_buffer("unit", torch.ones(len(self.layers), dtype=torch.float32))
        self.register_buffer("units_measured", torch.tensor(False))
        self._make()
        return self

    @abstractmethod
    def _make(self) -> None:
        """Makes the parameters, of which the vectors are zero."""

    def _start_from(self, path: str, base: str) -> None:
        from steer_lightning.steering.io import load_vectors

        found = load_vectors(path)
        shape = (found.layers, found.width, found.num_layers)
        if shape != (self.layers, self.width, self.num_layers):
            raise ConfigError(
                "model.steering.init_from",
                path,
                rule=f"holds layers {list(shape[0])} of {shape[2]} and width {shape[1]}; this "
                f"run trains layers {list(self.layers)} of {self.num_layers} and width "
                f"{self.width}",
            )
        for key in ("site", "tokens"):
            if getattr(found, key) != getattr(self, key):
                raise ConfigError(
                    f"model.steering.{key}",
                    getattr(self, key),
                    rule=f"model.steering.init_from = {path!r} holds vectors for "
                    f"{getattr(found, key)!r}",
                    fix="Set both to the same, or init_from: null",
                )
        if not set(found.result_names) <= set(self.result_names):
            raise ConfigError(
                "model.steering.init_from",
                path,
                rule=f"holds {found.saved_as}; model.steering is {type(self).__name__}",
            )
        self.set_result(found.result())
        ours, theirs = (float(x.vectors.detach().norm()) for x in (self, found))
        if ours < (1 - 1e-4) * theirs:
            share = 100 * ours / theirs
            log.warning("model.steering.init_from: %.1f %% of the vectors' norm are kept", share)
        warn_of_another_base(found, base)

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
        return HookedVectors(model, self, scale)

    @abstractmethod
    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """(D,) float32, the vector of the row-th steered layer times a factor; differentiable."""

    def gate(self, row: int, stream: torch.Tensor) -> torch.Tensor:
        """(rows, T, 1), the factor of each token of a stream (rows, T, D); if `by_token`."""
        raise NotImplementedError

    @property
    def vectors(self) -> torch.Tensor:
        """(L, D) float32, the plain vectors in the scale of the stream; differentiable."""
        return torch.stack([self.plain(row) for row in range(len(self.layers))])

    @torch.no_grad()
    def set_vectors(self, vectors: torch.Tensor) -> None:
        """Sets the plain vectors, as nearly as the parameters allow.

        Args:
            vectors: (L, D), in the order of `layers`, which is ascending.

        Raises:
            ValueError: If the shape is another.
        """
        if tuple(vectors.shape) != (len(self.layers), self.width):
            raise ValueError(
                f"vectors have shape {tuple(vectors.shape)}, need {(len(self.layers), self.width)}"
            )
        self._set_in_units(vectors.to(self.unit) / self.unit[:, None])

    @abstractmethod
    def _set_in_units(self, vectors: torch.Tensor) -> None:
        """Sets the vectors (L, D), given in their units."""

    def result(self) -> dict[str, torch.Tensor]:
        """What its file holds: `vectors`, and of some kinds more, each (L, D)."""
        return {"vectors": self.vectors}

    def set_result(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes over what a file holds."""
        self.set_vectors(tensors["vectors"])

    # ---- units

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Sets the units to the size of the base's own activations; `scale: none` keeps 1."""
        if self.scale == "none" or bool(self.units_measured):
            return
        plain = self.vectors.detach().clone()
        places = find_sites(find_layers(model, self.layers_path), self.layers, self.site)
        self.set_unit(measure_rms(model, places, batches))
        if bool(plain.any()):
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

    def describe(self) -> str:
        """See `Steering.describe`."""
        return f"{len(self.layers)} vectors of width {self.width}{self._place()}"

    def _place(self) -> str:
        site = "" if self.site == "layer_output" else f" at {self.site}"
        return site + ("" if self.tokens == "all" else f", {self.tokens} tokens alone")

    def facts(self) -> dict[str, Any]:
        """See `Steering.facts`."""
        return {
            "model.steering.layers": list(self.layers),
            "model.steering.site": self.site,
            "model.steering.tokens": self.tokens,
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
        """Saves plain vectors: see `save_vectors`."""
        from steer_lightning.steering.io import save_vectors

        save_vectors(self, path, base_model=base_model, revision=revision, step=step)


def warn_of_another_base(steering: Steering, base: str) -> None:
    """Says so if vectors that fit were trained on a model of another name.

    They may well serve: vectors carry over within a family.
    """
    trained_on = steering.metadata.get("base_model", "")
    if trained_on and base and Path(trained_on).name != Path(base).name:
        told = "these vectors were trained on %s, not on %s"
        log.warning(told, one_line(trained_on), one_line(base))
