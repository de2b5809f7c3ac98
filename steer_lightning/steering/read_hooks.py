"""The forward hooks that carry the state of `READ` from layer to layer within a pass."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.steering.base import Attachment
from steer_lightning.steering.compiled import check_not_compiled, traced_anew
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.model_parts import SeveralStreamsError, stream_of, with_stream
from steer_lightning.steering.site_check import check_reached


class SideNetwork(Protocol):
    """The part of `READ` that the hooks need; see the docstrings there."""

    layers: tuple[int, ...]
    layers_path: str | None
    width: int

    def next_state(self, stream: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        """Returns the states of tokens after a layer, (rows, T, r)."""

    def correction(self, stream: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Returns the corrections of tokens, (rows, T, D)."""


class HookedRead(Attachment):
    """Lets a side network read the layers of a model, and corrects the output of the last one.

    The state lives from the first layer that is read to the last layer of the model. Each layer
    must be called once and in order. Everything else is refused when it happens, also in a backward
    pass that calls layers again, since it would continue from a state of another layer. The
    package's own activation checkpointing, and that of transformers 5.23, recompute a layer without
    its hooks, and so are right.

    Args:
        model: Model to steer.
        network: Network that has been built for the model.
        scale: Factor on the correction.

    Raises:
        ConfigError: If the model is compiled around its layers, or a text does not reach one of
            them.
    """

    def __init__(self, model: nn.Module, network: SideNetwork, scale: float) -> None:
        self.scale = scale
        self._network = network
        layers = find_layers(model, network.layers_path)
        last = len(layers) - 1
        places = [layers[layer] for layer in network.layers]
        if len(set(layers)) < len(layers):
            raise ConfigError(
                "model.steering",
                "READ",
                rule=f"{type(model).__name__} has the same module at several places of its layers",
                why="A module that is called twice in a pass does not say as which layer",
            )
        check_not_compiled(model, [*places, layers[last]])
        check_reached(model, layers, sorted({*network.layers, last}))
        self._state: torch.Tensor | None = None
        self._num_read = 0
        self._handles: list[Any] = []
        for row, place in enumerate(places):
            self._handles.append(place.register_forward_hook(partial(self._read, row)))
            self._handles.append(traced_anew(place))
        # behind the hook that reads this layer, so that the state includes it
        self._handles.append(layers[last].register_forward_hook(self._correct))
        self._handles.append(traced_anew(layers[last]))

    def _read(self, row: int, module: nn.Module, args: object, output: Any) -> None:
        """Advances the state by the output of a layer."""
        if self.is_paused:
            return
        if row == 0:  # also after a pass that was left halfway
            self._state, self._num_read = None, 0
        stream = self._stream(output, expected=row)
        self._state = self._network.next_state(stream, self._state)
        self._num_read = row + 1

    def _correct(self, module: nn.Module, args: object, output: Any) -> Any:
        """Adds the correction to the output of the last layer, in the dtype of the stream."""
        if self.is_paused:
            return None
        stream = self._stream(output, expected=len(self._network.layers))
        assert self._state is not None
        change = self.scale * self._network.correction(stream, self._state)
        self._state, self._num_read = None, 0
        return with_stream(output, stream + change.to(stream))

    def _stream(self, output: Any, expected: int) -> torch.Tensor:
        """Returns the stream of a layer; raises a ConfigError if the state is not that of it."""
        if self._num_read != expected:
            self._state, self._num_read = None, 0
            raise ConfigError(
                "model.steering",
                UNKNOWN,
                rule="READ needs each layer to be called once and in order",
                why="A layer was skipped, or called again, as checkpoint(layer, ...) does in the "
                "backward pass",
                fix="Call the model as a whole. To recompute activations, set "
                "model.activation_checkpointing",
            )
        try:
            stream = stream_of(output, self._network.width)
        except SeveralStreamsError as error:
            raise ConfigError(
                "model.steering",
                UNKNOWN,
                rule="READ needs layers that pass on one stream",
                why="The layers of Gemma 3n, DeepSeek V4, HY V4 and Qwen4 pass on several",
                fix="Train vectors with model.steering.site: mlp_output",
            ) from error
        if self._state is not None and self._state.shape[:2] != stream.shape[:2]:
            raise ConfigError(
                "model.steering",
                UNKNOWN,
                rule=f"READ has states of {self._state.shape[1]} tokens, but a layer returns "
                f"{stream.shape[1]}",
                why="With logits_to_keep, layers of Gemma 4 read fewer tokens than those before",
                fix="Call the model without logits_to_keep, or train vectors",
            )
        return stream

    def remove(self) -> None:
        """Removes the hooks; see `Attachment.remove`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
