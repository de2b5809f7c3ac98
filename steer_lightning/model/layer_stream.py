"""The interface to the stream that enters a decoder layer of transformers.

Models pass the stream as the first argument or as `hidden_states`. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from steer_lightning.model.replaced_forward import replaced_forwards


def skipped(layers: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """Makes layers pass on the stream unchanged within the block."""

    def hand_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states

    return replaced_forwards(layers, lambda forward: hand_on)


@contextmanager
def stream_into(layer: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replaces the stream that enters a layer within the block.

    Args:
        layer: Decoder layer.
        change: Function from the stream (rows, T, D) to its replacement.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
