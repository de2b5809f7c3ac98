"""Skipping the layers below the first steered one when a micro-batch is read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from steer_lightning.model.layer_stream import skipped, stream_into


class SkippedLayers:
    """The layers below the first steered one, and the memory budget for their output.

    Vectors do not affect these layers, so their output is the same, bit for bit, in each optimizer
    step on a batch and with the vectors off, and so is the gradient.

    Args:
        layers: Decoder layers of the model.
        first: Index of the first steered layer, at least 1.
        max_tokens: Maximum number of tokens to keep, each with D numbers in the dtype of the base
            (several times D in Gemma 3n). Micro-batches that do not fit are read from the first
            layer on.
    """

    def __init__(self, layers: nn.ModuleList, first: int, max_tokens: int) -> None:
        self.below, self.first = list(layers)[:first], layers[first]
        self._room = max_tokens

    def take_in(self, num_tokens: int) -> bool:
        """Reserves room for that many more tokens; returns whether there was enough."""
        fits = num_tokens <= self._room
        self._room -= num_tokens if fits else 0
        return fits


class KeptStream:
    """The stream that enters the first steered layer in the passes over one micro-batch.

    Args:
        skipped: Layers that are skipped, shared by the micro-batches of a batch.
        num_passes: Number of times that the micro-batch will be read.

    Attributes:
        stream: Kept stream, (1, S, D) in the dtype of the base; None before the first pass, and if
            there is no room.
    """

    def __init__(self, skipped: SkippedLayers, num_passes: int) -> None:
        self._skipped, self._num_passes = skipped, num_passes
        self.stream: torch.Tensor | None = None

    @property
    def is_used(self) -> bool:
        """Whether the next pass keeps the stream or reads a kept one."""
        return self.stream is not None or self._num_passes > 1

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Skips the layers below in one pass if the stream has been kept, else keeps it."""
        self._num_passes -= 1
        with ExitStack() as stack:
            if self.stream is not None:
                stack.enter_context(skipped(self._skipped.below))
            if self.stream is not None or self._num_passes:
                stack.enter_context(stream_into(self._skipped.first, self._kept))
            yield

    def _kept(self, stream: torch.Tensor) -> torch.Tensor:
        """Keeps a stream if there is room, or returns the one that was kept before."""
        if self.stream is None and self._skipped.take_in(stream.shape[-3] * stream.shape[-2]):
            self.stream = stream
        return stream if self.stream is None else self.stream
