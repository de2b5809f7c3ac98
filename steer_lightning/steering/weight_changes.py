"""Changes of a model's own weights, which the baselines train, kept separately from the weights."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Attachment, ConstantVector, Steering
from steer_lightning.steering.compiled import FreshTrace, check_not_compiled, traced_anew
from steer_lightning.steering.generate_calls import watched_generate
from steer_lightning.steering.layers import language_model
from steer_lightning.steering.result_file import read_metadata, read_tensors, refusal, write_result
from steer_lightning.system.printable import one_line


class WeightChanges(Steering):
    """Base class of kinds that change weights by `W <- W + scale * D`, with D zero at the start.

    W itself never changes, so the base is preserved: scale 0 is the base bit for bit, as a KL to
    the base requires; the hash of the base can be compared; and small steps are not rounded away in
    a base of 16 bits. The price is a copy of the changed weights in the dtype of the base while the
    model runs.

    Args:
        init_from: File of the same kind to start from; null starts from zero.

    Attributes:
        names: Names of the changed weights in the model, in the order of `changes`.
        changes: Parameters that change the weights, float32.

    Raises:
        ConfigError: If `init_from` is missing.
    """

    file_name = "weight_changes.safetensors"
    beside_base = False
    needs_weights = True

    def __init__(self, init_from: str | None = None) -> None:
        super().__init__()
        if init_from is not None and not Path(init_from).is_file():
            raise ConfigError("model.steering.init_from", init_from, rule="there is no such file")
        self.init_from = init_from
        self.metadata = {}
        self.names: list[str] = []
        self.changes = nn.ParameterList()

    # ---- defined by each kind

    @abstractmethod
    def chosen(self, model: nn.Module) -> Mapping[str, torch.Size]:
        """Returns the names of the weights to change, and the shapes of their trained numbers.

        Raises:
            ConfigError: If the model has no such weights.
        """

    def start(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Returns the numbers of a weight at the start, with which its change is zero."""
        return torch.zeros(shape)

    def prepared(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes tensors of a weight that `change` needs; called once."""
        return ()

    def change(self, numbers: torch.Tensor, prepared: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Returns the change of a weight, in the shape of that weight; differentiable."""
        return numbers

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        shapes = self.chosen(model)
        if self.names:
            self._check_fit(model, shapes)
        else:
            self.names = list(shapes)
            for name, shape in shapes.items():
                self.changes.append(nn.Parameter(self.start(name, shape)))
            if self.init_from is not None:
                self._start_from(Path(self.init_from), model)

    def _check_fit(self, model: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
        ours = {name: change.shape for name, change in zip(self.names, self.changes, strict=True)}
        if ours != dict(shapes):
            odd = sorted({*ours, *shapes} - {k for k in ours if ours[k] == shapes.get(k)})
            raise ConfigError(
                "weights file",
                self.metadata.get("base_model", ""),
                rule=f"does not fit {type(model).__name__}: these weights are missing, unknown "
                f"or of another shape: {', '.join(map(one_line, odd[:3]))}",
                fix="Use it with the model on which it was trained",
            )

    def _start_from(self, path: Path, model: nn.Module) -> None:
        found = type(self)()
        found.load(path)
        found._check_fit(model, {n: c.shape for n, c in zip(self.names, self.changes, strict=True)})
        theirs = dict(zip(found.names, found.changes, strict=True))
        with torch.no_grad():
            for name, ours in zip(self.names, self.changes, strict=True):
                ours.copy_(theirs[name])

    # ---- the file

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves the changes, by the names of the weights; `load_steering` reads them."""
        metadata: dict[str, str | int | None] = {
            "format_version": "2",
            "kind": type(self).__name__,
            "base_model": base_model,
            "revision": revision,
            "step": step,
            **self.base_facts,
        }
        write_result(path, dict(zip(self.names, self.changes, strict=True)), metadata)

    def load(self, path: Path) -> None:
        """Sets the changes from a file.

        Raises:
            FileNotFoundError: If there is no such file.
            ConfigError: If the file is of another kind or damaged.
        """
        self.metadata, _ = read_metadata(path)
        kind = self.metadata.get("kind")
        if kind != type(self).__name__:
            raise refusal(path, f"must contain {type(self).__name__}, not {kind!r}")
        tensors = read_tensors(path)
        if not tensors:
            raise refusal(path, "contains no changes")
        self.names = list(tensors)
        self.changes = nn.ParameterList(
            nn.Parameter(tensor, requires_grad=False) for tensor in tensors.values()
        )

    # ---- using and reporting

    def attach(self, model: nn.Module, scale: float = 1.0) -> Attachment:
        """Attaches the changes to a model; see `Steering.attach`."""
        return ChangedWeights(model, self, scale)

    def facts(self) -> dict[str, Any]:
        """Returns a checksum of names and shapes; see `Steering.facts`."""
        shapes = [tuple(change.shape) for change in self.changes]
        crc = zlib.crc32(repr(sorted(zip(self.names, shapes, strict=True))).encode())
        return {"model.steering (checksum of the names of weights)": crc}

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Returns the norm of all changes together."""
        return {"norm": nn.utils.get_total_norm(list(self.changes)).item()}


class ChangedWeights(Attachment):
    """Replaces the weights of a model by changed ones while the model runs.

    An attribute of a module's instance hides the parameter of the same name: the forward pass reads
    `W + scale * D`, while the parameters and the state dict of the module are still W.

    Args:
        model: Model whose weights are changed.
        steering: Weight changes that have been built for the model.
        scale: Factor on all changes.
    """

    def __init__(self, model: nn.Module, steering: WeightChanges, scale: float) -> None:
        check_not_compiled(model)
        self.scale = scale
        self._steering = steering
        self._is_constant = False
        weights = dict(model.named_parameters())
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():  # a tied weight is in several places
            for name, weight in module.named_parameters(recurse=False):
                places.setdefault(id(weight), []).append((module, name))
        self._places = [places[id(weights[name])] for name in steering.names]
        self._prepared: list[tuple[torch.Tensor, ...] | None] = [None] * len(self._places)
        watch = watched_generate(language_model(model))
        self._handles: list[Any] = [model.register_forward_pre_hook(self._stand_in), watch]
        self._changed = {module for places in self._places for module, _ in places}
        self._traces: list[FreshTrace] = []

    def _stand_in(self, module: nn.Module, args: object) -> None:
        """Places the weights before each pass; they stay, since checkpointing recomputes layers."""
        check_not_compiled(module)  # compiled code would keep the weights of its first pass
        if not self._is_constant:
            self._place()

    def _place(self) -> None:
        if self.scale == 0:
            self._clear()
            return
        self._traces = self._traces or [traced_anew(module) for module in self._changed]
        rows = zip(self._places, self._steering.changes, strict=True)
        for row, (places, numbers) in enumerate(rows):
            module, name = places[0]
            # the changed weight hides the parameter as an attribute; no parameter is stored here,
            # because moving a model to some kinds of devices replaces its parameters
            weight = dict(module.named_parameters(recurse=False))[name].detach()
            change = self._steering.change(numbers, self._prepare(row, weight))
            changed = (weight.float() + self.scale * change.float()).to(weight.dtype)
            for module, name in places:
                module.__dict__[name] = changed

    def _prepare(self, row: int, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the tensors of a weight that the steering needs, computed at the first use.

        At the time of attachment the model may still be on the CPU, and Lightning moves it later.
        These tensors belong to no module, so only this method moves them.
        """
        # tensors made in the inference mode of a rollout could not be used to compute gradients
        with torch.inference_mode(False), torch.no_grad():
            known = self._prepared[row]
            if known is None:
                known = self._steering.prepared(self._steering.names[row], weight)
            self._prepared[row] = found = tuple(part.to(weight) for part in known)
        return found

    def _clear(self) -> None:
        for places in self._places:
            for module, name in places:
                module.__dict__.pop(name, None)
        for trace in self._traces:
            trace.remove()
        self._traces = []

    @contextmanager
    def constant(self) -> Iterator[Sequence[ConstantVector]]:
        """Changes the weights once for all passes within the block; see `Attachment.constant`."""
        with torch.no_grad():
            self._place()
        self._is_constant = True
        try:
            yield ()
        finally:
            self._is_constant = False
            self._clear()

    def remove(self) -> None:
        """Removes the hook and the changed weights; see `Attachment.remove`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._clear()
