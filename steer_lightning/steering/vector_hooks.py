"""The forward hooks that add vectors at places of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steer_lightning.steering.base import Attachment
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.sites import find_sites
from steer_lightning.steering.tokens import is_steered, roles_of_call

if TYPE_CHECKING:
    from steer_lightning.steering.site_vectors import SiteVectors

BIAS_LAYERS = {f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")}
"""Layers that end in `residual + mlp.down_proj(x)`, by name: a subclass may end otherwise."""

Output = torch.Tensor | tuple[torch.Tensor, ...]


class HookedVectors(Attachment):
    """Adds vectors to a model to which they are attached.

    Args:
        model: The model.
        vectors: Built for it.
        scale: Factor on all vectors.
    """

    def __init__(self, model: nn.Module, vectors: SiteVectors, scale: float) -> None:
        self.scale = scale
        self._vectors = vectors
        layers = find_layers(model, vectors.layers_path)
        places = find_sites(layers, vectors.layers, vectors.site)
        self._homes = [self._home(layers[layer]) for layer in vectors.layers]
        self._constant: list[torch.Tensor] = []
        self._folded: list[nn.Linear | None] = [None] * len(places)
        self._handles = [
            place.register_forward_hook(partial(self._add, row)) for row, place in enumerate(places)
        ]
        self._told: torch.Tensor | None = None
        self._steered: torch.Tensor | None = None  # (rows, T, 1) bool of the pass under way
        self.needs_roles = vectors.tokens != "all"
        if self.needs_roles:
            look = model.register_forward_pre_hook(self._look, with_kwargs=True)
            self._handles.append(look)

    def _home(self, layer: nn.Module) -> nn.Linear | None:
        vectors = self._vectors
        alike = vectors.tokens == "all" and not vectors.by_token
        return bias_home(layer, vectors.site) if alike else None

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Finds out which tokens of a pass are steered.

        This stays known after the pass, of which activation checkpointing computes parts again.
        """
        named = {"input_ids": args[0], **kwargs} if args else kwargs
        roles = roles_of_call(named) if self._told is None else self._told
        self._steered = is_steered(roles, self._vectors.tokens)

    def _add(self, row: int, module: nn.Module, args: object, output: Output) -> Output | None:
        """Computes `h <- h + scale * v` in the dtype of the stream.

        Some modules return a tuple that starts with h.
        """
        if self._folded[row] is not None:
            return None
        stream = output if isinstance(output, torch.Tensor) else output[0]
        vector = self._constant[row] if self._constant else self._plain(row)
        change = vector.to(stream)
        if self._vectors.by_token:
            change = self._vectors.gate(row, stream) * change
        if self._steered is not None:
            change = self._steered.to(stream) * change
        steered = stream + change
        return steered if isinstance(output, torch.Tensor) else (steered, *output[1:])

    def _plain(self, row: int) -> torch.Tensor:
        return self._vectors.plain(row, self.scale)

    @contextmanager
    def reading(self, roles: torch.Tensor) -> Iterator[None]:
        """See `Attachment.reading`."""
        self._told = roles
        try:
            yield
        finally:
            self._told = None

    @contextmanager
    def constant(self) -> Iterator[None]:
        """While the block runs the vectors do not change: they are multiplied out once.

        A token-by-token loop would do so again for each token and layer. Where what is steered ends
        in a linear layer, its vector becomes that layer's bias for that time: the same sum, without
        an operation of its own. Without gradients.
        """
        with torch.no_grad():
            self._constant = [self._plain(row) for row in range(len(self._homes))]
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
            self._constant, self._folded = [], [None] * len(self._homes)

    def remove(self) -> None:
        """Removes the hooks; see `Attachment.remove`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def bias_home(layer: nn.Module, site: str) -> nn.Linear | None:
    """The linear layer whose bias is the same as a vector at a site; None if there is none.

    A layer whose last operation is `residual + down_proj(x)` adds that bias to its output. Layers
    that normalise after the MLP, as in Gemma and OLMo 2, do not.
    """
    # FSDP2 makes a class of its own of a layer's
    if type(layer).__name__.removeprefix("FSDP") not in BIAS_LAYERS:
        return None
    if site not in ("layer_output", "mlp_output"):
        return None
    home = layer.get_submodule("mlp.down_proj")
    return home if type(home) is nn.Linear and home.bias is None else None  # not if quantised
