"""The interface to the stream that enters a decoder layer of transformers.

Models hand it over as the first argument or as `hidden_states`. Tested with transformers 5.0 and
5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from steer_lightning.model.replaced_forward import replaced_forwards


@contextmanager
def stream_seen(layer: nn.Module, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Shows the stream (rows, T, D) that enters a layer in the forward passes of the block."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    with _before(layer, hook):
        yield


@contextmanager
def stream_given(
    below: Sequence[nn.Module], layer: nn.Module, stream: torch.Tensor
) -> Iterator[None]:
    """Skips layers in the forward passes of the block.

    Args:
        below: Layers that do nothing.
        layer: Layer above them, which a stream of ours enters instead.
        stream: That stream, (rows, T, D).
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (stream, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": stream}

    with replaced_forwards(below, lambda forward: _hand_on), _before(layer, hook):
        yield


def _hand_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stands in for a skipped layer; its output is replaced before the first steered layer."""
    return hidden_states


@contextmanager
def _before(layer: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
