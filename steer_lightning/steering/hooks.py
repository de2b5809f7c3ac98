"""Adds vectors to the output of decoder layers, by forward hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from steer_lightning.steering.base import Attachment

if TYPE_CHECKING:
    from steer_lightning.steering.vectors import SteeringVectors

BIAS_LAYERS = {f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")}
"""Layers that end in `residual + mlp.down_proj(x)`, by name: a subclass may end otherwise."""

LayerOutput = torch.Tensor | tuple[torch.Tensor, ...]


class HookedVectors(Attachment):
    """Vectors attached to decoder layers."""

    def __init__(self, layers: nn.ModuleList, vectors: SteeringVectors, scale: float) -> None:
        self.scale = scale
        self._vectors = vectors
        self._layers = [layers[layer] for layer in vectors.layers]
        self._homes = [bias_home(layer) for layer in self._layers]
        self._constant: list[torch.Tensor] = []
        self._folded: list[nn.Linear | None] = [None] * len(self._layers)
        self._handles = [
            layers[layer].register_forward_hook(partial(self._add, row))
            for row, layer in enumerate(vectors.layers)
        ]

    def _add(
        self, row: int, module: nn.Module, args: object, output: LayerOutput
    ) -> LayerOutput | None:
        """`h <- h + scale * v`, in the stream's dtype.

        Older layers return a tuple that starts with h.
        """
        if self._folded[row] is not None:
            return None
        stream = output if isinstance(output, torch.Tensor) else output[0]
        vector = self._constant[row] if self._constant else self._plain(row)
        steered = stream + vector.to(stream)
        return steered if isinstance(output, torch.Tensor) else (steered, *output[1:])

    def _plain(self, row: int) -> torch.Tensor:
        vectors = self._vectors
        return vectors.weight[row, : vectors.width] * (vectors.unit[row] * self.scale)

    @contextmanager
    def constant(self) -> Iterator[None]:
        """While the block runs the vectors do not change: they are multiplied out once.

        A token-by-token loop would do so again for each token and layer. Where a layer ends in
        `residual + down_proj(x)`, its vector becomes the bias of `down_proj` for that time: the
        same sum, without an operation of its own. Without gradients.
        """
        with torch.no_grad():
            rows = range(len(self._layers))
            self._constant = [self._plain(k) for k in rows]
        for row, (home, vector) in enumerate(zip(self._homes, self._constant, strict=True)):
            # a zero vector stays outside: the base's products with a bias differ in the last bit
            if home is not None and bool(vector.any()):
                plain = vector.to(home.weight.dtype)
                home.bias = nn.Parameter(plain, requires_grad=False)
                self._folded[row] = home
        try:
            yield
        finally:
            for home in self._folded:
                if home is not None:
                    home.bias = None  # type: ignore[assignment]  # as nn.Linear itself does
            self._constant, self._folded = [], [None] * len(self._layers)

    def remove(self) -> None:
        """Takes the vectors off; the model is as it was. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def bias_home(layer: nn.Module) -> nn.Linear | None:
    """Where a decoder layer can hold its vector as a bias; None if it can't.

    A layer whose last operation is `residual + down_proj(x)` adds that bias to its output. Layers
    that normalise after the MLP, as in Gemma and OLMo 2, do not.
    """
    # FSDP2 makes a class of its own of a layer's
    if type(layer).__name__.removeprefix("FSDP") not in BIAS_LAYERS:
        return None
    home = layer.get_submodule("mlp.down_proj")
    return home if type(home) is nn.Linear and home.bias is None else None  # not if quantised
