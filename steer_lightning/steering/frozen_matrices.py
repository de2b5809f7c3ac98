"""The base class of adapters whose few numbers act through matrices that are never trained."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import BASE_BITS, Attachment
from steer_lightning.steering.compiled import check_not_compiled
from steer_lightning.steering.peft_modules import (
    ADAPTER,
    CONFIG,
    WEIGHTS,
    PeftModules,
    check_plain,
    import_peft,
    read_config,
    take_out,
    without_values,
)
from steer_lightning.steering.result_file import read_metadata, read_tensors, refusal
from steer_lightning.system.collectives import first_tells
from steer_lightning.system.printable import one_line

NOT_PLAIN = ("bias", "modules_to_save", "rank_pattern")
"""Settings of PEFT that make an adapter compute something else."""
Places = list[tuple[nn.Module, str]]
Shape = tuple[int | None, ...]
"""Shape of a tensor; None is a size that depends on the layer."""


class FrozenMatrices(PeftModules):
    """Adapters that PEFT computes from trained numbers and frozen matrices.

    The frozen matrices are computed once, when the adapter is first attached to the base, and are
    kept in float32 beside the trained numbers, in checkpoints and in the result. Computed anew on
    another machine they might differ: the sign of a singular vector is arbitrary, and with another
    sign the same numbers mean something else. So all processes of a run use those of the first.

    Args:
        rank: Rank r of the change of each layer.
        kwargs: Further arguments of `PeftModules`.

    Attributes:
        names: PEFT's names of the trained tensors, without the name of the adapter.
        numbers: Trained tensors in that order, float32.
        frozen_names: PEFT's names of the frozen tensors.
        is_filled: Whether the frozen tensors are known, a bool buffer.
        numbers_in: Text in the names of the trained tensors.
        factor_in: Text in the names of frozen tensors in which the change is linear; a scale
            multiplies them.
    """

    numbers_in: str
    factor_in: str
    is_filled: torch.Tensor
    needs_weights = True

    def __init__(self, rank: int, **kwargs: Any) -> None:
        super().__init__(rank, **kwargs)
        self.frozen_names: list[str] = []
        self.numbers = nn.ParameterList()

    # ---- defined by each kind

    def start(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Returns a trained tensor as it is at the start, such that the change is zero."""
        return torch.zeros(shape)

    @classmethod
    @abstractmethod
    def from_settings(cls, config: Mapping[str, Any]) -> Self:
        """Creates an object from the configuration of a folder in PEFT's format."""

    @abstractmethod
    def shape_of(self, name: str) -> Shape:
        """Returns what the settings say about the shape of a tensor, by its name in a file."""

    def check_layers(self, tuner: Any) -> None:
        """Raises a ConfigError if a setting does not fit the layers of PEFT's model."""

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        with without_values(model):
            tuner = self.inject(model)
            shapes = {name: tensor.shape for name, (tensor, _) in self.tensors_of(tuner).items()}
            try:
                self.check_layers(tuner)
            finally:
                take_out(tuner)
        if self.names:
            self._check_fit(model, shapes)
            return
        trained = {name: shape for name, shape in shapes.items() if self.numbers_in in name}
        self._create({name: self.start(name, shape) for name, shape in trained.items()})
        self._keep(
            {k: torch.zeros(shape) for k, shape in shapes.items() if k not in trained}, False
        )
        if self.init_from is not None:
            start = load_frozen_matrices(type(self), Path(self.init_from))
            start._check_fit(model, shapes)
            with torch.no_grad():
                for ours, theirs in zip(self.tensors(), start.tensors(), strict=True):
                    ours.copy_(theirs)
            self.is_filled.fill_(True)

    def _create(self, numbers: Mapping[str, torch.Tensor]) -> None:
        self.names = list(numbers)
        self.numbers = nn.ParameterList(nn.Parameter(tensor) for tensor in numbers.values())

    def _keep(self, frozen: Mapping[str, torch.Tensor], are_known: bool) -> None:
        self.frozen_names = list(frozen)
        for row, tensor in enumerate(frozen.values()):
            self.register_buffer(f"frozen_{row}", tensor)
        self.register_buffer("is_filled", torch.tensor(are_known))

    def tensors(self) -> list[torch.Tensor]:
        """Returns all tensors, trained ones first, in the order of their names."""
        return [*self.numbers, *(self.get_buffer(f"frozen_{k}") for k in self._rows())]

    def _rows(self) -> range:
        return range(len(self.frozen_names))

    def tensors_of(self, tuner: Any) -> dict[str, tuple[torch.Tensor, Places]]:
        """Returns the tensors that PEFT has added to a model, by name, with all their places."""
        found: dict[int, tuple[str, torch.Tensor, Places]] = {}
        for path, module in tuner.named_modules(remove_duplicate=False):
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                full = f"{path}.{key}"
                if tensor is None or self.mark not in f".{full}":
                    continue
                name, _, places = found.setdefault(id(tensor), (full, tensor, []))
                places.append((module, key))
                # of a shared tensor, PEFT's files have the name in its own model, the shortest
                found[id(tensor)] = (min(name, full, key=len), tensor, places)
        ordered = sorted(found.values(), key=lambda entry: entry[0])
        return {
            name.removesuffix(f".{ADAPTER}").replace(f".{ADAPTER}.", "."): (tensor, places)
            for name, tensor, places in ordered
        }

    def _check_fit(self, model: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
        names = [*self.names, *self.frozen_names]
        ours = {name: tensor.shape for name, tensor in zip(names, self.tensors(), strict=True)}
        odd = sorted({*ours, *shapes} - {k for k in ours if ours[k] == shapes.get(k)})
        if odd:
            raise self.refuse_model(model, odd[0])

    # ---- using and reporting

    def attach(self, model: nn.Module, scale: float = 1.0) -> Attachment:
        """Puts PEFT's modules into a model; see `Steering.attach`."""
        return InjectedMatrices(model, self, scale)

    @torch.no_grad()
    def take_from_first(self) -> None:
        """Takes over the first process's frozen matrices; see `Steering.take_from_first`.

        With the gradient summed over processes, all must mean the same change by the same numbers.
        """
        frozen = self.tensors()[len(self.names) :]
        told = first_tells([tensor.cpu() for tensor in frozen])
        for ours, first in zip(frozen, told, strict=True):
            ours.copy_(first)

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        shapes = [tuple(numbers.shape) for numbers in self.numbers]
        crc = zlib.crc32(repr((self.names, shapes, self.frozen_names)).encode())
        return {
            "model.steering.rank": self.rank,
            "model.steering.target_modules (checksum of the layers)": crc,
        }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Returns the norm of all trained numbers together."""
        return {"norm": nn.utils.get_total_norm(list(self.numbers)).item()}

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves a folder that `peft.PeftModel.from_pretrained` and `load_steering` can read."""
        if not bool(self.is_filled):
            raise ConfigError(
                type(self).__name__,
                "never attached",
                rule="has no frozen matrices yet",
                fix="Attach it to its model before it is saved",
            )
        names = [*self.names, *self.frozen_names]
        tensors = {
            f"base_model.{name}": tensor.contiguous()
            for name, tensor in zip(names, self.tensors(), strict=True)
        }
        self.write_folder(
            path,
            tensors,
            self.linear_names(),
            base_model=base_model,
            revision=revision,
            step=step,
        )

    def linear_names(self) -> Iterator[str]:
        """Yields names of linear layers, as PEFT's configuration needs them."""
        for name in (*self.names, *self.frozen_names):
            place = name.partition(self.mark)[0]
            if place.startswith("model."):
                yield place.removeprefix("model.").removesuffix(".")


class InjectedMatrices(Attachment):
    """Runs PEFT's modules in a model, with the numbers and matrices of a `FrozenMatrices`.

    Args:
        model: Model that `build` has seen, or one of the same structure.
        steering: Steering that has been built.
        scale: Factor on the change.
    """

    def __init__(self, model: nn.Module, steering: FrozenMatrices, scale: float) -> None:
        check_not_compiled(model)
        self._steering, self._tuner = steering, None
        known = bool(steering.is_filled)
        with without_values(model) if known else nullcontext():
            self._tuner = steering.inject(model)
        found = steering.tensors_of(self._tuner)
        self._frozen = [found[name] for name in steering.frozen_names]
        if not known:
            for ours, (theirs, _) in zip(self._ours(), self._frozen, strict=True):
                ours.copy_(theirs)
            steering.is_filled.fill_(True)
        for name, parameter in zip(steering.names, steering.numbers, strict=True):
            for module, key in found[name][1]:
                module._parameters[key] = parameter
        self.scale = scale
        self._handle = model.register_forward_pre_hook(lambda *_: self._place())

    def _ours(self) -> list[torch.Tensor]:
        return self._steering.tensors()[len(self._steering.names) :]

    @property
    def scale(self) -> float:
        """Factor on the change."""
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        self._scale = scale
        self._scaled: dict[str, torch.Tensor] = {}
        self._place()

    def _place(self) -> None:
        """Places the frozen matrices before each pass, where the trained numbers now are.

        A model that moves takes the numbers with it, but makes new matrices.
        """
        names, like = self._steering.frozen_names, self._steering.numbers[0]
        for name, ours, (_, places) in zip(names, self._ours(), self._frozen, strict=True):
            tensor = ours.to(
                device=like.device, dtype=like.dtype
            )  # the same tensor, if it is there
            if self._scale != 1 and self._steering.factor_in in name:
                known = self._scaled.get(name)
                if known is None or (known.device, known.dtype) != (like.device, like.dtype):
                    self._scaled[name] = tensor * self._scale
                tensor = self._scaled[name]
            for module, key in places:
                module._buffers[key] = tensor

    def remove(self) -> None:
        """Removes PEFT's modules; see `Attachment.remove`."""
        if self._tuner is not None:
            self._handle.remove()
            take_out(self._tuner)
            self._tuner = None


def load_frozen_matrices(kind: type[FrozenMatrices], path: Path) -> FrozenMatrices:
    """Loads a folder in PEFT's format.

    Raises:
        ConfigError: If the folder is damaged or contains something else.
    """
    config = read_config(path)
    check_plain(path, config, kind.__name__, NOT_PLAIN)
    if not (path / WEIGHTS).is_file():
        raise refusal(path, f"has no {WEIGHTS}")
    told, _ = read_metadata(path / WEIGHTS)  # raises if the file is not a safetensors file
    found = _from_settings(kind, path, config)
    tensors = {}
    for name, tensor in sorted(read_tensors(path / WEIGHTS).items()):
        plain = name.removeprefix("base_model.")
        if plain == name or found.mark not in f".{plain}":
            raise refusal(path, f"must be plain {kind.__name__}, but its {WEIGHTS} has {name!r}")
        _check_shape(path, name, tensor, found.shape_of(plain))
        tensors[plain] = tensor
    trained = {name: t for name, t in tensors.items() if found.numbers_in in f".{name}"}
    if not trained or len(trained) == len(tensors):
        raise refusal(path, f"must have trained numbers and frozen matrices in its {WEIGHTS}")
    found._create(trained)
    found._keep({name: t for name, t in tensors.items() if name not in trained}, are_known=True)
    bits = {key: told[key] for key in (BASE_BITS,) if key in told}
    found.metadata = {"base_model": config["base_model_name_or_path"], **bits}
    return found.requires_grad_(False)


def _from_settings(
    kind: type[FrozenMatrices], path: Path, config: Mapping[str, Any]
) -> FrozenMatrices:
    import_peft(kind.__name__)  # that PEFT is missing is no fault of the folder
    try:
        return kind.from_settings(config)
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
        raise refusal(path, f"has no usable {CONFIG} ({one_line(error)})") from error


def _check_shape(path: Path, name: str, tensor: torch.Tensor, expected: Shape) -> None:
    """Refuses a tensor that contradicts the settings, by which PEFT would allocate memory."""
    found = tuple(tensor.shape)
    fits = len(found) == len(expected) and tensor.numel() > 0
    if not fits or any(b not in (None, a) for a, b in zip(found, expected, strict=True)):
        shape = ", ".join("any" if size is None else str(size) for size in expected)
        raise refusal(
            path,
            f"must have {one_line(name)} of shape ({shape}) by its {CONFIG}, but it has {found}",
        )
