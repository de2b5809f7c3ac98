"""The interface to the recurrent layers of transformers: their states, and the modules that mix.

A recurrent layer, such as a gated delta net, a Mamba-2 or a short convolution, summarises earlier
tokens in a state of fixed size, which its cache keeps. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from transformers.cache_utils import Cache

Name = tuple[str, int]
"""Kind of a state, `conv` or `recurrent`, and its number among the states of its kind."""


class StateStore(Protocol):
    """The states of a layer for the rows of the current pass."""

    def read(self, name: Name) -> torch.Tensor | None:
        """Returns a state (rows, ...), which may be changed in place; None for a new text."""

    def write(self, name: Name, state: torch.Tensor) -> None:
        """Stores a state (rows, ...)."""


class RecurrentCache(Cache):
    """A cache whose layers may have states.

    Args:
        layers: Cache layer of each decoder layer.
        states: States of each decoder layer.
    """

    def __init__(self, layers: list[Any], states: Sequence[StateStore]) -> None:
        super().__init__(layers=layers)
        self.states = states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Returns the last inputs of a convolution, (rows, channels, width of its kernel)."""
        return self.states[layer_idx].read(("conv", state_idx))

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Stores the last inputs of a convolution, from (rows, channels, T); returns all."""
        missing = (conv_kernel_size or 0) - conv_states.shape[-1]
        kept = nn.functional.pad(conv_states, (missing, 0)) if conv_kernel_size else conv_states
        # a negative padding removes columns
        self.states[layer_idx].write(("conv", state_idx), kept)
        return conv_states

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Returns the state of a recurrence, (rows, ...)."""
        return self.states[layer_idx].read(("recurrent", state_idx))

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Stores and returns the state of a recurrence, (rows, ...)."""
        self.states[layer_idx].write(("recurrent", state_idx), recurrent_states)
        return recurrent_states


def recurrent_mixers(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Returns the modules that mix the tokens of a text by a recurrence.

    They are recognised by a convolution along the text, with which all of them begin. A recurrence
    without one is not found, and the self-checks refuse it.

    Args:
        layers: Decoder layers of a model.
    """
    return [
        module
        for layer in layers
        for module in layer.modules()
        if any(isinstance(child, nn.Conv1d) for child in module.children())
    ]
