"""The attention and the MLP of each layer, as far as one can see what they do.

The attention of a layer is the module of the site `attention_output`, if it returns its weights.
The MLP of a layer is the module of the site `mlp_output`, with the norm behind it if there is one.
What it adds is m, the output of that norm, or else of the module itself, if m reaches the stream as
it is, times a constant:

    output of the layer = what does not depend on m + c m.

Gradients tell whether this holds, and find c: the product of a random u with the Jacobian of the
output by m must be c u. The names of modules would not tell, for layers may have more norms, or
change what they have added.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from steer_lightning.model.attention import weights_in
from steer_lightning.model.policy import Policy
from steer_lightning.steering import find_sites
from steer_lightning.steering.model_parts import (
    SeveralStreamsError,
    one_logit,
    stream_of,
    with_stream,
)
from steer_lightning.steering.sites import named_sites
from steer_lightning.system.float64 import in_float64

NORMS_BEHIND = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Names of norms between an MLP and the stream."""

LINEAR = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Largest relative deviation of the Jacobian from a constant, by dtype."""
LINEAR_IN_16_BITS = 3e-2
"""The same for all other dtypes."""


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """The MLP of a layer."""

    module: nn.Module
    """Module of the site `mlp_output`."""
    norm: nn.Module | None
    """Norm that reads its output, and whose own output is added to the stream; None without one."""
    factor: float
    """Constant c by which what is added is multiplied."""

    def added(self, output: Any) -> torch.Tensor:
        """Returns what the layer adds to the stream, (rows, T, D) float32, for an output.

        The hooks of the norm do not run, so that it may be called within a pass.
        """
        stream = stream_of(output)
        found = stream if self.norm is None else self.norm.forward(stream)
        return self.factor * found.float()


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """The attentions and MLPs of a model, by layer; layers without one that can be seen lack it."""

    attention: dict[int, nn.Module]
    mlp: dict[int, Mlp]


def read_text(policy: Policy, ids: torch.Tensor) -> None:
    """Reads one text as a prompt, without padding and without a cache.

    Args:
        policy: Policy that reads.
        ids: Tokens of the text, (1, T) int64.
    """
    with policy.with_text_roles(ids, 0), one_logit(policy.model):
        policy.model(input_ids=ids, use_cache=False)


def find_parts(policy: Policy, ids: torch.Tensor) -> LayerParts:
    """Finds attentions and MLPs by one pass of the base; see `open_weights`.

    Args:
        policy: Policy whose model is loaded, within `open_weights`.
        ids: Tokens of a text, (1, T) int64.
    """
    layers, attention = policy.layers, _named(policy.layers, "attention_output")
    mlps, norms = _named(layers, "mlp_output"), _norms(layers)
    known: dict[int, nn.Module] = {}
    probes = {k: _Probe(layers[k], mlp, norms.get(k)) for k, mlp in mlps.items()}

    def see(layer: int, module: nn.Module, args: object, output: Any) -> None:
        if weights_in(output, ids.shape[1]) is not None:
            known[layer] = module

    handles = [x.register_forward_hook(partial(see, k)) for k, x in attention.items()]
    try:
        for probe in probes.values():
            handles += probe.hooks()
        with policy.at_scale(0.0), torch.enable_grad():
            read_text(policy, ids)
    finally:
        for handle in handles:
            handle.remove()
    factors = {k: probe.factor for k, probe in probes.items()}
    return LayerParts(
        attention=known,
        mlp={
            k: Mlp(module=mlps[k], norm=norms.get(k), factor=factor)
            for k, factor in factors.items()
            if factor is not None
        },
    )


def _named(layers: nn.ModuleList, site: str) -> dict[int, nn.Module]:
    return {
        k: find_sites(layers, [k], site)[0]
        for k, layer in enumerate(layers)
        if site in named_sites(layer)
    }


def _norms(layers: nn.ModuleList) -> dict[int, nn.Module]:
    """Returns the norm behind the MLP of each layer that has one."""
    found = {}
    for k, layer in enumerate(layers):
        parts = dict(layer.named_children())
        for name in NORMS_BEHIND:
            if name in parts:
                found[k] = parts[name]
    return found


class _Probe:
    """Finds the constant c by which a layer multiplies what its MLP adds.

    Args:
        layer: Layer.
        mlp: Its MLP.
        norm: Norm behind the MLP; None without one.

    Attributes:
        factor: The constant; None if the layer does something else with this output, has not been
            called, or if the norm reads something else than the output of the MLP.
    """

    def __init__(self, layer: nn.Module, mlp: nn.Module, norm: nn.Module | None) -> None:
        self._layer, self._mlp, self._norm = layer, mlp, norm
        self._output: torch.Tensor | None = None
        self._leaf: torch.Tensor | None = None
        self._calls = 0
        self._follows = norm is None
        self.factor: float | None = None

    def hooks(self) -> list[Any]:
        """Places the hooks, which the caller removes."""
        last = self._mlp if self._norm is None else self._norm
        handles = [
            last.register_forward_hook(self._cut),
            self._layer.register_forward_hook(self._differentiate),
        ]
        if self._norm is not None:
            handles += [
                self._mlp.register_forward_hook(self._keep),
                self._norm.register_forward_pre_hook(self._compare),
            ]
        return handles

    def _keep(self, module: nn.Module, args: object, output: Any) -> None:
        with suppress(SeveralStreamsError):
            self._output = stream_of(output)

    def _compare(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Finds out whether the norm reads the output of the MLP, and nothing else."""
        own, given = self._output, args[0] if args else None
        self._follows = own is not None and given is not None and torch.equal(own, given)

    def _cut(self, module: nn.Module, args: object, output: Any) -> Any:
        """Lets the graph of gradients begin at the output of the MLP."""
        self._calls += 1
        try:
            leaf = stream_of(output).detach().requires_grad_()
        except SeveralStreamsError:
            return None
        self._leaf = leaf
        return with_stream(output, leaf * 1)  # layers may add to it in place

    def _differentiate(self, module: nn.Module, args: object, output: Any) -> Any:
        leaf = self._leaf
        try:
            stream = stream_of(output, None if leaf is None else leaf.shape[2])
        except SeveralStreamsError:
            return None
        if leaf is not None and self._calls == 1 and self._follows and stream.requires_grad:
            self.factor = _constant(stream, leaf)
        return with_stream(output, stream.detach())  # the next layer has a graph of its own


def _constant(output: torch.Tensor, leaf: torch.Tensor) -> float | None:
    """Returns c if the output depends on the leaf by `c leaf`; None if it does otherwise."""
    u = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
        output, leaf, u, allow_unused=True
    )
    found = gradients[0]
    if found is None:
        return None
    u, found = in_float64(u), in_float64(found)
    factor = float((found * u).sum() / u.square().sum())
    deviation = float((found - factor * u).norm())
    allowed = LINEAR.get(output.dtype, LINEAR_IN_16_BITS)
    return factor if factor and deviation <= allowed * abs(factor) * float(u.norm()) else None
