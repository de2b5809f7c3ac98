"""The skipping of the layers below the first steered one when a micro-batch is read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from steer_lightning.model.layer_stream import stream_given, stream_seen


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

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Skips the layers below in one pass if the stream is kept already, else keeps it."""
        self._num_passes -= 1
        below, first = self._skipped.below, self._skipped.first
        if self.stream is not None:
            with stream_given(below, first, self.stream):
                yield
        elif self._num_passes:
            with stream_seen(first, self._keep):
                yield
        else:
            yield

    def _keep(self, stream: torch.Tensor) -> None:
        if self._skipped.take_in(stream.shape[-3] * stream.shape[-2]):
            self.stream = stream
