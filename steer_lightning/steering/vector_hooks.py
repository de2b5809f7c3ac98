"""The forward hooks that add vectors at the sites of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torch._subclasses import FakeTensor

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Attachment, ConstantVector
from steer_lightning.steering.compiled import check_not_compiled, traced_anew
from steer_lightning.steering.generate_calls import watched_generate
from steer_lightning.steering.layers import find_layers, language_model
from steer_lightning.steering.model_parts import stream_of, with_stream
from steer_lightning.steering.site_check import check_reached, check_sites
from steer_lightning.steering.sites import Site, find_sites
from steer_lightning.steering.tokens import Tokens, is_steered, roles_of_call


class Vectors(Protocol):
    """The part of `SiteVectors` that the hooks need; see the docstrings there."""

    layers: tuple[int, ...]
    layers_path: str | None
    site: Site
    tokens: Tokens
    by_token: bool

    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """Returns one plain vector; see `SiteVectors.plain`."""

    def gate(self, row: int, stream: torch.Tensor) -> torch.Tensor:
        """Returns factors of tokens (rows, T, 1), or of their numbers (rows, T, D)."""


class HookedVectors(Attachment):
    """Adds vectors to a model to which they are attached.

    Args:
        model: Model to steer.
        vectors: Vectors that have been built for the model.
        scale: Factor on all vectors.

    Attributes:
        left_out: Indices of layers whose vectors do nothing for now. Like `scale`, it may be
            changed at any time.

    Raises:
        ConfigError: If the model is compiled around its sites, a site is not what its name says, or
            a nonzero vector is at the output of a layer that no text reaches.
    """

    def __init__(self, model: nn.Module, vectors: Vectors, scale: float) -> None:
        self.scale = scale
        self.left_out: frozenset[int] = frozenset()
        self._vectors = vectors
        layers = find_layers(model, vectors.layers_path)
        self._layers = [layers[layer] for layer in vectors.layers]
        places = find_sites(layers, vectors.layers, vectors.site)
        check_not_compiled(model, places)
        check_sites(model, layers, vectors.layers, vectors.site)
        if vectors.site == "layer_output":
            check_reached(model, layers, self._not_zero())
        self._constant: list[ConstantVector] = []
        base = language_model(model)
        self._generate = watched_generate(base)
        self._handles: list[Any] = [self._generate]
        for row, place in enumerate(places):
            self._handles.append(place.register_forward_hook(partial(self._add, row)))
            self._handles.append(traced_anew(place))
        self._told: torch.Tensor | None = None
        self._steered: torch.Tensor | None = None  # (rows or 1, T, 1) bool, for the current pass
        self._num_last: object = 0  # positions of that pass whose logits are requested
        self.needs_roles = vectors.tokens != "all"
        if self.needs_roles:
            self._parameters = list(inspect.signature(base.forward).parameters)
            look = base.register_forward_pre_hook(self._look, with_kwargs=True)
            self._handles += [look, traced_anew(base)]

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Finds out which tokens of a pass are steered.

        The result is kept after the pass, because activation checkpointing recomputes parts of the
        pass.
        """
        if self.is_paused:
            return
        named = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        roles = self._told
        if roles is None:
            roles = self._generate.roles(named)
        if roles is None:
            roles = roles_of_call(named)
        self._steered = is_steered(roles, self._vectors.tokens)
        self._num_last = named.get("logits_to_keep")

    def _add(self, row: int, module: nn.Module, args: object, output: Any) -> Any:
        """Computes `h <- h + scale * v` in the dtype of the stream.

        Some modules return a tuple or a list that starts with h.
        """
        if self.is_paused:
            return None
        constant = self._constant[row] if self._constant else None
        if constant is not None and constant.is_folded:
            return None
        vector = self._plain(row) if constant is None else constant.vector
        plain = isinstance(output, torch.Tensor) and output.dim() == 3
        is_stream = plain and output.shape[2] == vector.shape[-1]
        stream = output if is_stream else stream_of(output, vector.shape[-1])
        change = vector.to(stream)
        if self._vectors.by_token:
            change = self._vectors.gate(row, stream) * change
        if self.needs_roles:
            change = self._steered_in(stream).to(stream) * change
        return stream + change if is_stream else with_stream(output, stream + change)

    def _steered_in(self, stream: torch.Tensor) -> torch.Tensor:
        """Returns which tokens of a stream (rows, T, D) are steered, (rows or 1, T, 1) bool."""
        steered, length, num_last = self._steered, stream.shape[1], self._num_last
        if steered is not None and steered.shape[1] == length:
            return steered
        if steered is not None and isinstance(num_last, int) and num_last == length:
            # layers of Gemma 4 that share keys read only the positions whose logits are requested
            return steered[:, -length:]
        raise ConfigError(
            "model.steering.tokens",
            self._vectors.tokens,
            rule=f"the roles of {length} tokens of this pass are unknown",
            why="The layers were called directly, or read other tokens than the model",
            fix="Call the model to which the vectors are attached, or set model.steering.tokens: "
            "all",
        )

    @torch.no_grad()
    def _not_zero(self) -> list[int]:
        """Returns the layers whose vectors are not zero; none if tensors have no data."""
        plain = [self._vectors.plain(row) for row in range(len(self._vectors.layers))]
        rows = zip(self._vectors.layers, plain, strict=True)
        return [
            layer
            for layer, vector in rows
            if not (vector.is_meta or isinstance(vector, FakeTensor)) and bool(vector.any())
        ]

    def _plain(self, row: int) -> torch.Tensor:
        scale = 0.0 if self._vectors.layers[row] in self.left_out else self.scale
        return self._vectors.plain(row, scale)

    @contextmanager
    def with_roles(self, roles: torch.Tensor) -> Iterator[None]:
        """Sets the roles of the tokens; see `Attachment.with_roles`."""
        self._told = roles
        try:
            yield
        finally:
            self._told = None

    @contextmanager
    def constant(self) -> Iterator[Sequence[ConstantVector]]:
        """Computes the plain vectors once for the block, in which they do not change.

        Otherwise a token-by-token loop would compute them for each token and layer.

        Yields:
            The vectors if they act on all tokens in the same way, else none.
        """
        with torch.no_grad():
            self._constant = [
                ConstantVector(layer, self._vectors.site, self._plain(row))
                for row, layer in enumerate(self._layers)
            ]
        alike = self._vectors.tokens == "all" and not self._vectors.by_token
        try:
            yield self._constant if alike else ()
        finally:
            self._constant = []

    def remove(self) -> None:
        """Removes the hooks, and restores `generate`; see `Attachment.remove`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
