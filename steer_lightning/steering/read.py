"""READ, a small recurrent network beside the model that corrects the last layer's output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Steering
from steer_lightning.steering.layers import (
    check_ascending,
    find_layers,
    parse_layers,
    shown_layers,
    stream_width,
)
from steer_lightning.steering.read_hooks import HookedRead
from steer_lightning.steering.result_file import read_parts, refusal, write_result
from steer_lightning.system.seeds import check_seed

PARTS = ("down", "recurrent", "bias", "up")


class READ(Steering):
    """Corrects the last layer's output by a recurrent network that reads all layers' outputs.

    For each token alone, with phi_i (D,) the output of layer i of N,

        s_i = tanh(W_down phi_i / rms(phi_i) + W_state s_{i-1} + b),   s_0 = 0,
        phi_N <- phi_N + scale * rms(phi_N) W_up s_N.

    The recurrence runs over the layers, whose weights are shared; tokens do not see each other's
    states. No gradient passes through a layer of the model. W_up (D, r) is zero at the start, so
    the start is the base bit for bit. `r * (2 D + r + 1)` numbers are trained, however many layers
    there are. A token whose phi_i is zero enters as zero.

    The method is that of arXiv 2305.15348, of which only summaries were at hand: a recurrent
    network beside the frozen model, whose input a joiner network makes of the model's hidden
    states, and whose output corrects the last one. Choices of this package are that the joiner is
    a projection of phi_i alone, that W_up starts at zero, and that everything is in units of the
    root mean square of phi_i, which grows over the layers: without it tanh would saturate, and
    learning rates would mean something else for each model.

    Args:
        rank: Number r of numbers of the state; at most D.
        layers: Layers whose outputs are read: `all`, a range that includes both ends, such as
            `"8-15"`, or an ascending list of 0-based indices. The output of the last layer of the
            model is corrected in any case.
        seed: Seed of W_down and W_state at the start.
        init_from: File of the same kind to start from; null starts anew.
        layers_path: Dotted path of the model's decoder layers, if they are not found automatically.

    Attributes:
        layers: 0-based indices of the layers that are read, ascending; available after `build`.
        width: Width D of the residual stream; available after `build`.
        num_layers: Number of decoder layers of the model; 0 before `build`.
        down: W_down, (r, D) float32 parameter.
        recurrent: W_state, (r, r) float32 parameter.
        bias: b, (r,) float32 parameter.
        up: W_up, (D, r) float32 parameter.

    Raises:
        ConfigError: If a setting is out of range.
    """

    file_name = "read.safetensors"
    layers: tuple[int, ...]
    width: int
    down: nn.Parameter
    recurrent: nn.Parameter
    bias: nn.Parameter
    up: nn.Parameter

    def __init__(
        self,
        rank: int = 8,
        layers: str | list[int] = "all",
        seed: int = 0,
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ConfigError("model.steering.rank", rank, rule="must be at least 1")
        check_seed("model.steering.seed", seed)
        check_ascending(layers)
        if init_from is not None and not Path(init_from).is_file():
            raise ConfigError("model.steering.init_from", init_from, rule="there is no such file")
        self.rank, self.chosen, self.seed = rank, layers, seed
        self.init_from, self.layers_path = init_from, layers_path
        self.metadata = {}
        self.num_layers = 0

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        width, num_layers = stream_width(model), len(find_layers(model, self.layers_path))
        _check_tokens(model)
        if self.num_layers:
            self._check_fit(type(model).__name__, width, num_layers)
            return
        self._create(width, num_layers)
        if self.init_from is not None:
            self._start_from(Path(self.init_from), type(model).__name__)

    def _create(self, width: int, num_layers: int) -> None:
        self.layers = parse_layers(self.chosen, num_layers)
        if self.rank > width:
            rule = f"must be at most {width}, the width of the stream"
            raise ConfigError("model.steering.rank", self.rank, rule=rule)
        self.width, self.num_layers = width, num_layers
        generator = torch.Generator().manual_seed(self.seed)
        # an input of root mean square 1 and a state of ones are each about as large behind them
        down = torch.randn(self.rank, width, generator=generator) / width**0.5
        recurrent = torch.randn(self.rank, self.rank, generator=generator) / self.rank**0.5
        self.down, self.recurrent = nn.Parameter(down), nn.Parameter(recurrent)
        self.bias = nn.Parameter(torch.zeros(self.rank))
        self.up = nn.Parameter(torch.zeros(width, self.rank))

    def _check_fit(self, model: str, width: int, num_layers: int) -> None:
        found = {"width": (self.width, width), "decoder layers": (self.num_layers, num_layers)}
        for what, (ours, theirs) in found.items():
            if ours != theirs:
                raise ConfigError(
                    "READ",
                    f"{what} {ours}",
                    rule=f"the model.base {model} has {what} {theirs}",
                    fix="Use it with the model on which it was trained",
                )

    def _start_from(self, path: Path, model: str) -> None:
        start = load_read(path)
        start._check_fit(model, self.width, self.num_layers)
        for key in ("rank", "layers"):
            if getattr(start, key) != getattr(self, key):
                raise ConfigError(
                    f"model.steering.{key}",
                    getattr(self, key),
                    rule=f"model.steering.init_from = {str(path)!r} has {getattr(start, key)!r}",
                    fix="Set it to that value, or set init_from: null",
                )
        self._take({part: getattr(start, part) for part in PARTS})

    @torch.no_grad()
    def _take(self, tensors: dict[str, torch.Tensor]) -> None:
        for part in PARTS:
            getattr(self, part).copy_(tensors[part])

    # ---- using

    @property
    def first_layer(self) -> int:
        """Index of the first layer that is read; see `Steering.first_layer`."""
        return self.layers[0]

    def attach(self, model: nn.Module, scale: float = 1.0) -> HookedRead:
        """Attaches the network to a model; see `Steering.attach`."""
        return HookedRead(model, self, scale)

    def next_state(self, stream: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        """Returns s_i of each token, (rows, T, r) float32.

        Args:
            stream: Output phi_i of a layer, (rows, T, D).
            state: s_{i-1} of each token, (rows, T, r); None is zero.
        """
        exact, device = stream.float(), stream.device
        sums = (exact / _size(exact)) @ self.down.to(device).T + self.bias.to(device)
        if state is not None:  # the layers of a large model may lie on several devices
            sums = sums + state.to(device) @ self.recurrent.to(device).T
        return torch.tanh(sums)

    def correction(self, stream: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Returns rms(phi) W_up s of each token, (rows, T, D) float32.

        Args:
            stream: Output phi of the last layer, (rows, T, D).
            state: s of each token, (rows, T, r).
        """
        device = stream.device
        return _size(stream.float()) * (state.to(device) @ self.up.to(device).T)

    # ---- reporting and the file

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"READ with a state of {self.rank} numbers over layers {shown_layers(self.layers)}"

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        return {
            "model.steering.rank": self.rank,
            "model.steering.layers": list(self.layers),
            "number of decoder layers": self.num_layers,
            "width": self.width,
        }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Returns the norm of W_up, which is zero at the start."""
        return {"norm": self.up.norm().item()}

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves the four parameters and the layers; `load_steering` reads them."""
        metadata: dict[str, str | int | None] = {
            "format_version": "1",
            "kind": type(self).__name__,
            "base_model": base_model,
            "revision": revision,
            "step": step,
            "num_layers": self.num_layers,
            "layers": json.dumps(list(self.layers)),
            **self.base_facts,
        }
        write_result(path, {part: getattr(self, part) for part in PARTS}, metadata)


def _size(stream: torch.Tensor) -> torch.Tensor:
    """Returns the root mean square of each token of a stream, (rows, T, 1), above zero."""
    return stream.pow(2).mean(-1, keepdim=True).add(1e-12).sqrt()


def _check_tokens(model: Any) -> None:
    """Raises a ConfigError if some layers read fewer tokens than those before them."""
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise ConfigError(
            "model.steering",
            "READ",
            rule=f"the model.base {type(model).__name__} has layers that share keys",
            why="Such layers read only the tokens whose logits are requested, so that the states "
            "of tokens would be mixed up",
            fix="Use another base, or train vectors",
        )


def load_read(path: Path) -> READ:
    """Loads a file that `READ.save` has written.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file is of another kind or damaged.
    """
    parts = read_parts(path, "READ", PARTS)
    tensors = parts.tensors
    rank, width = tensors["down"].shape if tensors["down"].dim() == 2 else (0, 0)
    expected = ((rank, width), (rank, rank), (rank,), (width, rank))
    shapes = dict(zip(PARTS, expected, strict=True))
    odd = [part for part in PARTS if tuple(tensors[part].shape) != shapes[part]]
    if odd or not 0 < rank <= width:
        raise refusal(path, f"has tensors whose shapes do not fit each other: {odd or PARTS}")
    found = READ(rank, parts.layers)
    found._create(width, parts.num_layers)
    found._take(tensors)
    found.metadata = parts.metadata
    return found.requires_grad_(False)
