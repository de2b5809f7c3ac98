"""Passes over a text in which the attention weights and the MLP outputs of layers are seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.model.attention import weights_in
from steer_lightning.model.policy import Policy
from steer_lightning.results.lens.layer_parts import LayerParts, read_text
from steer_lightning.steering import SiteVectors, find_sites
from steer_lightning.steering.model_parts import outputs_seen
from steer_lightning.steering.vector_hooks import HookedVectors

Place = tuple[Literal["attention", "mlp"], int]
"""Attention or MLP, and the index of its layer."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a part of a layer did with a text of T tokens."""

    given: torch.Tensor
    """First tensor that the attention or the MLP itself has read: the stream, behind a norm or not,
    (1, T, D)."""
    output: torch.Tensor
    """Weights (H, T, T) of an attention; what an MLP adds to the stream, (T, D). Both float32.

    A vector at the output of an MLP is not part of it, even where a norm behind the MLP reads their
    sum: it is what that norm makes of the output of the MLP alone."""


class _Enough(Exception):
    """Ends a pass in which all that is wanted has been seen."""


class Passes:
    """Reads texts with a choice of vectors, and returns what happens at the places of a model.

    The outputs are those of attention and MLP themselves, before vectors are added to them.

    Args:
        policy: Policy that is loaded and steered by vectors, within `open_weights`.
        parts: Attentions and MLPs of the model.
    """

    def __init__(self, policy: Policy, parts: LayerParts) -> None:
        self._policy, self._parts = policy, parts
        modules: list[tuple[Place, nn.Module]] = [
            *((("attention", k), module) for k, module in parts.attention.items()),
            *((("mlp", k), mlp.module) for k, mlp in parts.mlp.items()),
        ]
        self._modules = dict(sorted(modules, key=lambda pair: (pair[0][1], pair[0][0])))

    def base(self, ids: torch.Tensor) -> dict[Place, Seen]:
        """Reads a text (1, T) without vectors, to its end."""
        with self._policy.at_scale(0.0):
            return self._read(ids, self._modules)

    def together(self, ids: torch.Tensor) -> dict[Place, Seen]:
        """Reads a text (1, T) with all vectors, to its end."""
        return self._read(ids, self._modules)

    def alone(
        self, ids: torch.Tensor, layer: int, wanted: Collection[Place] | None = None
    ) -> dict[Place, Seen]:
        """Reads a text (1, T) with the vector of one layer.

        Args:
            ids: Tokens of the text.
            layer: Index of the layer.
            wanted: Places behind which the pass ends; None reads to the end, and sees all.
        """
        modules = self._modules if wanted is None else {p: self._modules[p] for p in wanted}
        with _only(self._policy, layer):
            return self._read(ids, modules)

    @torch.no_grad()
    def vectors(self, ids: torch.Tensor) -> dict[int, torch.Tensor]:
        """Returns what the vector of each layer, alone, adds at its site to a token that it steers.

        Args:
            ids: Tokens of a text, (1, T).

        Returns:
            By layer, the plain vector for each token, times its gate if it has one, (T, D) float32.
        """
        vectors, scale = self._policy.steering, self._policy.attachment.scale
        assert isinstance(vectors, SiteVectors)
        rows = range(len(vectors.layers))
        found = {vectors.layers[k]: vectors.plain(k, scale).expand(ids.shape[1], -1) for k in rows}
        if not vectors.by_token:
            return found

        def see(row: int, stream: torch.Tensor) -> None:
            layer = vectors.layers[row]
            found[layer] = vectors.gate(row, stream)[0].float() * found[layer]

        # a vector alone finds the stream of the base at its site
        places = find_sites(self._policy.layers, vectors.layers, vectors.site)
        with self._policy.at_scale(0.0), outputs_seen(places, see):
            read_text(self._policy, ids)
        return found

    def first_changed(self, ids: torch.Tensor, layer: int) -> dict[str, Place]:
        """Returns the first attention and the first MLP that read something else with a vector.

        Whatever the site of the vector and the order of the parts in a layer, these are the next
        ones behind it.

        Args:
            ids: Tokens of a text, (1, T).
            layer: Index of the layer whose vector acts.

        Returns:
            The places, by `attention` and `mlp`; without one of them if the vector reaches none.
        """
        base, steered = self.base(ids), self.alone(ids, layer)
        found: dict[str, Place] = {}
        for place in self._modules:
            if not torch.equal(base[place].given, steered[place].given):
                found.setdefault(place[0], place)
        return found

    @torch.no_grad()
    def _read(self, ids: torch.Tensor, modules: Mapping[Place, nn.Module]) -> dict[Place, Seen]:
        if not modules:
            return {}
        found: dict[Place, Seen] = {}

        def see(
            place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any
        ) -> None:
            given = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
            found[place] = Seen(given=given, output=self._plain(place, output, ids.shape[1]))
            if len(found) == len(modules) and modules is not self._modules:
                raise _Enough

        handles = [
            # before the hooks that add vectors
            module.register_forward_hook(partial(see, place), with_kwargs=True, prepend=True)
            for place, module in modules.items()
        ]
        try:
            with suppress(_Enough):
                read_text(self._policy, ids)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _plain(self, place: Place, output: Any, num_tokens: int) -> torch.Tensor:
        kind, layer = place
        if kind == "mlp":
            added = self._parts.mlp[layer].added(output)[0]
            _check_finite(added, f"output of the MLP of layer {layer}")
            return added
        _check_finite(output[1], f"attention of layer {layer}")
        weights = weights_in(output, num_tokens)
        assert weights is not None, "the module returned weights for another text"
        return weights


def _check_finite(values: torch.Tensor, name: str) -> None:
    """Raises a ConfigError if vectors have made what a module returns infinite or NaN."""
    if bool(torch.isfinite(values).all()):
        return
    raise ConfigError(
        "inside",
        True,
        rule=f"the steered {name} is not finite",
        why="The vectors are too large for the dtype of the base",
        fix="Give vectors of a smaller norm, or set dtype: float32, or leave inside out",
    )


@contextmanager
def _only(policy: Policy, layer: int) -> Iterator[None]:
    """Lets only the vector of one layer act within the block."""
    attachment, steering = policy.attachment, policy.steering
    assert isinstance(attachment, HookedVectors)
    before = attachment.left_out
    attachment.left_out = frozenset(steering.layers) - {layer}  # type: ignore[arg-type]
    try:
        yield
    finally:
        attachment.left_out = before
