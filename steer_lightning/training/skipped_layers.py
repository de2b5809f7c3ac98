"""The skipping of the layers below the first steered one when a micro-batch is read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from steer_lightning.model.layer_stream import skipped, stream_into


class SkippedLayers:
    """The layers below the first steered one, and room for the streams that leave them.

    No vector reaches these layers, so their output is the same, bit for bit, in each optimizer
    step on a batch and with the vectors off, and the gradient is the same, too.

    Args:
        layers: Decoder layers of the model.
        first: Index of the first steered layer, at least 1.
        max_tokens: Most tokens to keep, each of D numbers in the base's dtype, several times D in a
            Gemma 3n; micro-batches for which there is no room are read from the first layer on.
    """

    def __init__(self, layers: nn.ModuleList, first: int, max_tokens: int) -> None:
        self.below, self.first = list(layers)[:first], layers[first]
        self._room = max_tokens

    def take_in(self, num_tokens: int) -> bool:
        """Tells whether there is room for that many more tokens, and takes it if so."""
        fits = num_tokens <= self._room
        self._room -= num_tokens if fits else 0
        return fits


class KeptStream:
    """The stream that enters the first steered layer in the passes over one micro-batch.

    Args:
        skipped: Layers that are skipped, shared by the micro-batches of a batch.
        num_passes: Number of times that the micro-batch is going to be read.

    Attributes:
        stream: Kept stream, (1, S, D) in the base's dtype; None before the first pass, and where
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
        """Skips the layers below in one pass if the stream is kept already, else keeps it."""
        self._num_passes -= 1
        with ExitStack() as stack:
            if self.stream is not None:
                stack.enter_context(skipped(self._skipped.below))
            if self.stream is not None or self._num_passes:
                stack.enter_context(stream_into(self._skipped.first, self._kept))
            yield

    def _kept(self, stream: torch.Tensor) -> torch.Tensor:
        """Keeps a stream if there is room, or returns the one that was kept in its place."""
        if self.stream is None and self._skipped.take_in(stream.shape[-3] * stream.shape[-2]):
            self.stream = stream
        return stream if self.stream is None else self.stream
