"""Layers below the first steered one, skipped when a micro-batch is read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from steer_lightning.model.replaced_forward import Forward, replaced_forwards


class Streams:
    """Room for streams that enter the first steered layer, of micro-batches that are read again.

    No vector reaches what is below, so it comes out the same for each update of a batch, and with
    the vectors off: bit for bit, and so does the gradient.

    Args:
        layers: The decoder layers.
        first: Index of the first steered one; below layer 0 there is nothing to keep.
        max_tokens: Tokens to keep at most, each D numbers in the base's dtype; micro-batches beyond
            are read from the bottom.
    """

    def __init__(self, layers: nn.ModuleList, first: int, max_tokens: int) -> None:
        self.below, self.first = list(layers)[:first], layers[first]
        self._room = max_tokens if first else 0

    def take_in(self, num_tokens: int) -> bool:
        """Whether there is room for so many more tokens; if so, it is taken."""
        fits = num_tokens <= self._room
        self._room -= num_tokens if fits else 0
        return fits


class Kept:
    """What is kept of one micro-batch, until the batch has been used.

    Args:
        streams: Shared by the micro-batches of a batch.
        num_reads: How often it is going to be read.

    Attributes:
        stream: (1, S, D) in the base's dtype, what enters the first steered layer; None before the
            first read, and where there is no room.
    """

    def __init__(self, streams: Streams, num_reads: int) -> None:
        self._streams, self._num_reads = streams, num_reads
        self.stream: torch.Tensor | None = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the block runs the model reads the micro-batch, once."""
        self._num_reads -= 1
        streams = self._streams
        with ExitStack() as stack:
            if self.stream is not None:
                stack.enter_context(replaced_forwards(streams.below, lambda forward: _hand_on))
                stack.enter_context(_before(streams.first, self._put_in))
            elif self._num_reads:
                stack.enter_context(_before(streams.first, self._take_down))
            yield

    def _take_down(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = args[0] if args else kwargs["hidden_states"]
        if self._streams.take_in(stream.shape[0] * stream.shape[1]):
            self.stream = stream

    def _put_in(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self.stream, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.stream}


def _hand_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stands for a layer that is skipped: what it returns is replaced further up."""
    return hidden_states


@contextmanager
def _before(layer: nn.Module, hook: Forward) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
