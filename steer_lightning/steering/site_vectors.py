"""The base class of vectors that are added at a site of each decoder layer."""

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
from steer_lightning.steering.base import BASE_BITS, Batches, Steering
from steer_lightning.steering.kl_size import Batch, measure_kl_size
from steer_lightning.steering.layers import (
    check_ascending,
    find_layers,
    parse_layers,
    shown_layers,
    stream_width,
)
from steer_lightning.steering.site_check import check_reached
from steer_lightning.steering.sites import Site, find_sites
from steer_lightning.steering.tokens import Tokens
from steer_lightning.steering.units import check_usable, measure_rms
from steer_lightning.steering.vector_hooks import HookedVectors
from steer_lightning.steering.vectors_file import (
    TENSORS,
    VectorsFile,
    read_vectors_file,
    write_vectors_file,
)
from steer_lightning.system.collectives import first_tells
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)

Scale = Literal["kl", "rms", "none"]


class SiteVectors(Steering):
    """Vectors `v_l` in units of the activations at their sites; subclasses define their parameters.

    Args:
        layers: Layers to steer: `all`, a range that includes both ends, such as `"8-15"`, or an
            ascending list of 0-based indices.
        site: Place in a layer at which the vector is added: the output of the layer, as in the
            paper, or the output of its input norm, of its attention, of the norm before its MLP, or
            of its MLP.
        tokens: Tokens to steer: all tokens, those of the prompt, those of the completion, or only
            the last token of the prompt.
        scale: Units of the vectors, measured once on the first batch of prompts. With `rms`, a unit
            is the typical size of the activations at the site. With `kl`, it is the part of that
            size for which random vectors at all sites together change the distribution of the next
            token by 0.1 nats, so that one learning rate suits most models. `none` is the paper's
            parametrisation, without units.
        init_from: File of vectors to start from; null starts from zero.
        layers_path: Dotted path of the model's decoder layers, if they are not found automatically.

    Attributes:
        layers: 0-based indices of the L steered decoder layers, ascending; available after `build`.
        width: Width D of the residual stream; available after `build`.
        num_layers: Number of decoder layers of the model; 0 before `build`.
        unit: Size of one unit in each layer, (L,) float32 buffer; 1 is the paper's own
            parametrisation.
        stream: Typical size of the activations at each site, (L,) float32 buffer; 1 with `none`.
        units_measured: Whether `set_unit` has been called, a bool buffer.
        by_token: Whether `gate` scales the vector for each token.
        saved_as: Kind named in the file; mixtures are saved as the resulting vectors.

    Raises:
        ConfigError: If the form of `layers` is wrong, or `init_from` is missing.
    """

    file_name = "steering_vectors.safetensors"
    saved_as = "SteeringVectors"
    by_token = False
    layers: tuple[int, ...]
    width: int
    num_layers: int
    unit: torch.Tensor
    stream: torch.Tensor
    units_measured: torch.Tensor

    def __init__(
        self,
        layers: str | list[int] = "all",
        site: Site = "layer_output",
        tokens: Tokens = "all",
        scale: Scale = "kl",
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        check_ascending(layers)
        if init_from is not None and not Path(init_from).is_file():
            raise ConfigError("model.steering.init_from", init_from, rule="there is no such file")
        self.chosen, self.site, self.tokens, self.scale = layers, site, tokens, scale
        self.init_from, self.layers_path = init_from, layers_path
        self._started_from: torch.Tensor | None = None  # plain vectors, until the units are known
        self.metadata = {}
        self.num_layers = 0

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        width, layers = stream_width(model), find_layers(model, self.layers_path)
        if self.num_layers:
            self._check_fit(type(model).__name__, width, len(layers))
        else:
            self.shaped(width, len(layers))
            if self.init_from is not None:
                self._start_from(self.init_from, getattr(model, "name_or_path", ""))
        find_sites(layers, self.layers, self.site)

    def shaped(self, width: int, num_layers: int) -> Self:
        """Creates the parameters for a model of this width and number of decoder layers.

        Raises:
            ConfigError: If `layers` are out of range.
        """
        self.layers = parse_layers(self.chosen, num_layers)
        self.width, self.num_layers = width, num_layers
        self.register_buffer("unit", torch.ones(len(self.layers), dtype=torch.float32))
        self.register_buffer("stream", torch.ones(len(self.layers), dtype=torch.float32))
        self.register_buffer("units_measured", torch.tensor(False))
        self._make()
        return self

    @abstractmethod
    def _make(self) -> None:
        """Creates the parameters such that the vectors are zero."""

    def _start_from(self, path: str, base: str) -> None:
        found = read_vectors_file(Path(path))
        shape = (found.layers, found.width, found.num_layers)
        if shape != (self.layers, self.width, self.num_layers):
            raise ConfigError(
                "model.steering.init_from",
                path,
                rule=f"has layers {list(shape[0])} of {shape[2]} and width {shape[1]}, but this "
                f"run trains layers {list(self.layers)} of {self.num_layers} and width "
                f"{self.width}",
            )
        for key in ("site", "tokens"):
            if getattr(found, key) != getattr(self, key):
                raise ConfigError(
                    f"model.steering.{key}",
                    getattr(self, key),
                    rule=f"model.steering.init_from = {path!r} has vectors for "
                    f"{getattr(found, key)!r}",
                    fix="Set it to that value, or set init_from: null",
                )
        if not set(found.tensors) <= set(TENSORS[self.saved_as]):
            raise ConfigError(
                "model.steering.init_from",
                path,
                rule=f"contains {found.kind}, but model.steering is {type(self).__name__}",
            )
        self.set_result(found.tensors)
        self._started_from = found.tensors["vectors"]
        warn_of_another_base(found, base, self.base_bits)

    @torch.no_grad()
    def _start_in_units(self, start: torch.Tensor) -> None:
        """Sets the vectors of `init_from` again: which ones are nearest depends on the units."""
        self.set_vectors(start)
        found, wanted = (x.to(self.unit) / self.unit[:, None] for x in (self.vectors, start))
        if (share := float(found.norm() / wanted.norm())) < 1 - 1e-4:
            told = "model.steering.init_from: %.1f %% of the norm of the vectors is kept"
            log.warning(told, 100 * share)

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
                    else "The vectors are for another model",
                    fix="Use vectors of this model, or the model on which they were trained",
                )

    # ---- using

    @property
    def first_layer(self) -> int:
        """Index of the first steered layer; see `Steering.first_layer`."""
        return self.layers[0]

    def attach(self, model: nn.Module, scale: float = 1.0) -> HookedVectors:
        """Attaches the vectors to a model; see `Steering.attach`."""
        return HookedVectors(model, self, scale)

    @abstractmethod
    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """Returns the vector of a row times a factor, (D,) float32; differentiable."""

    def gate(self, row: int, stream: torch.Tensor) -> torch.Tensor:
        """Returns factors (rows, T, 1) for the tokens of a stream (rows, T, D), if `by_token`."""
        raise NotImplementedError

    @property
    def vectors(self) -> torch.Tensor:
        """Plain vectors at the scale of the stream, (L, D) float32; differentiable."""
        return torch.stack([self.plain(row) for row in range(len(self.layers))])

    @torch.no_grad()
    def set_vectors(self, vectors: torch.Tensor) -> None:
        """Sets the plain vectors, as closely as the parameters allow.

        Args:
            vectors: Plain vectors (L, D), in the order of `layers`, which is ascending.

        Raises:
            ValueError: If the vectors have another shape.
        """
        if tuple(vectors.shape) != (len(self.layers), self.width):
            raise ValueError(
                f"vectors have shape {tuple(vectors.shape)}, but must have "
                f"{(len(self.layers), self.width)}"
            )
        self._set_in_units(vectors.to(self.unit) / self.unit[:, None])

    @abstractmethod
    def _set_in_units(self, vectors: torch.Tensor) -> None:
        """Sets the vectors (L, D), given in their units."""

    def result(self) -> dict[str, torch.Tensor]:
        """Returns the tensors for the file, each (L, D): `vectors`, and more for some kinds."""
        return {"vectors": self.vectors}

    def set_result(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Sets the parameters from the tensors of a file."""
        self.set_vectors(tensors["vectors"])

    # ---- units

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Sets the units by the base's own activations; `scale: none` keeps 1.

        Raises:
            ConfigError: If a text does not reach the layers, or their activations have no size.
        """
        if bool(self.units_measured):
            return
        layers = find_layers(model, self.layers_path)
        check_reached(model, layers, self.layers)
        plain, start = self.vectors.detach().clone(), self._started_from
        self._measure_units(model, layers, list(batches))
        if start is not None and bool(start.any()):
            self._start_in_units(start)
        elif bool(plain.any()):
            self.set_vectors(plain)
        self._started_from = None

    def _measure_units(self, model: nn.Module, layers: nn.ModuleList, texts: list[Batch]) -> None:
        if self.scale == "none":
            self.set_unit(torch.ones_like(self.unit))
            return
        places = find_sites(layers, self.layers, self.site)
        sizes = measure_rms(model, places, texts)
        factor = 1.0
        if self.scale == "kl":
            factor = measure_kl_size(model, places, sizes, self.width, texts)
        # others may round differently, and the same numbers must mean the same vectors everywhere
        sizes, factor = first_tells((sizes, factor))
        self.set_unit(sizes * factor)
        self.stream.copy_(sizes)

    @torch.no_grad()
    def set_unit(self, unit: torch.Tensor) -> None:
        """Sets the size of one unit per layer, before any training.

        Args:
            unit: Sizes of the units, (L,), positive.

        Raises:
            ConfigError: If a unit is not positive and finite; a vector in such units could not be
                trained.
        """
        check_usable(unit, self.layers, self.scale)
        self.unit.copy_(unit)
        self.units_measured.fill_(True)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Completes a checkpoint of a version without `stream`, in which it was the unit."""
        if f"{prefix}unit" in state_dict:
            state_dict.setdefault(f"{prefix}stream", state_dict[f"{prefix}unit"])
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---- reporting

    @torch.no_grad()
    def __repr__(self) -> str:
        """Returns layers, width, site, norm and base on one line."""
        places = f"site {self.site}, tokens {self.tokens}"
        if not self.num_layers:
            return f"{type(self).__name__}(layers {self.chosen}, {places}, for no model yet)"
        layers = shown_layers(self.layers)
        facts = [f"layers {layers} of {self.num_layers}", f"width {self.width}", places]
        vectors = self.vectors
        if not vectors.is_meta:
            facts.append(f"mean norm {float(vectors.norm(dim=1).mean()):.4g}")
        facts.append(f"base {self.metadata.get('base_model') or 'unknown'}")
        return one_line(f"{type(self).__name__}({', '.join(facts)})")

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        noun = "vector" if len(self.layers) == 1 else "vectors"
        return f"{len(self.layers)} {noun} of width {self.width}{self._place()}"

    def _place(self) -> str:
        site = "" if self.site == "layer_output" else f" at {self.site}"
        return site + ("" if self.tokens == "all" else f", {self.tokens} tokens only")

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
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
        """Returns norms of the plain vectors, and their size as a multiple of the stream."""
        norms = self.vectors.norm(dim=1)
        found = {"norm_mean": norms.mean().item(), "norm_max": norms.max().item()}
        if self.scale != "none":
            size = (norms / self.width**0.5 / self.stream).mean().item()
            found |= {"size_in_stream": size if bool(self.units_measured) else float("nan")}
        return found

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves plain vectors; see `save_vectors`."""
        content = VectorsFile(
            kind=self.saved_as,
            site=self.site,
            tokens=self.tokens,
            layers=self.layers,
            num_layers=self.num_layers,
            width=self.width,
            tensors=self.result(),
            metadata={
                "base_model": base_model,
                "revision": revision,
                "step": step,
                **self.base_facts,
            },
        )
        write_vectors_file(path, content)


def warn_of_another_base(
    found: Steering | VectorsFile, base: str, base_bits: int | str | None = None
) -> None:
    """Warns if vectors that fit were trained on a model of another name, or of other precision.

    Such vectors may still be useful, since vectors carry over within a family.

    Args:
        found: Vectors, with the metadata of their file.
        base: Name of the base that they are used with.
        base_bits: Bits of a weight of that base if it is quantised; None otherwise.
    """
    trained_on = str(found.metadata.get("base_model", ""))
    if trained_on and base and Path(trained_on).name != Path(base).name:
        told = "these vectors were trained on %s, not on %s"
        log.warning(told, one_line(trained_on), one_line(base))
    trained_in, used_in = str(found.metadata.get(BASE_BITS, "")), str(base_bits or "")
    if trained_in != used_in and (trained_on or trained_in):  # nothing is known of made-up vectors
        texts = one_line(_precision(trained_in)), one_line(_precision(used_in))
        log.warning("these vectors were trained on %s, and are used on %s", *texts)


def _precision(bits: str) -> str:
    return f"a base in {bits} bits" if bits else "a base that is not quantised"
