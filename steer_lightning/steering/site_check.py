"""The check, by one short pass of the model, that sites are what their names say.

A module with the name of a site may be at another place, may never be called, or may have no
effect. Some decoder layers are never reached by a text, such as the layers of Mllama that read
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.steering.layers import stream_width
from steer_lightning.steering.model_parts import SeveralStreamsError, stream_of, with_stream
from steer_lightning.steering.sites import MODULES, find_sites, named_sites

NUM_TOKENS = 5
"""Number of tokens that the pass reads."""

READERS = {"input_norm": "attention", "post_attention_norm": "MLP"}
"""Part of the layer that reads the output of a site, if there is one."""


def check_sites(model: nn.Module, layers: nn.ModuleList, indices: Sequence[int], site: str) -> None:
    """Checks that each layer's site is called once, is read by the right part, and has an effect.

    Args:
        model: Language model with its weights.
        layers: Decoder layers of the model.
        indices: Indices of the steered layers.
        site: Name of the site; for the output of a layer see `check_reached`.

    Raises:
        ConfigError: If a site is not what its name says; the error lists the sites that are.
    """
    if site == "layer_output":
        return
    reason = _why_not(model, layers, indices, site)
    if reason is None:
        return
    others = [name for name in named_sites(layers[indices[0]]) if name != site]
    known = [name for name in others if _fits(model, layers, indices, name)]
    raise ConfigError(
        "model.steering.site",
        site,
        rule=f"{type(model).__name__} has no such site",
        why=reason,
        fix=f"Set one of {', '.join(known)}",
    )


def check_reached(model: nn.Module, layers: nn.ModuleList, indices: Sequence[int]) -> None:
    """Checks that a text reaches some layers, so that each is called in a short pass.

    Args:
        model: Language model with its weights.
        layers: Decoder layers of the model.
        indices: Indices of the layers; without any, no pass is run.

    Raises:
        ConfigError: If a layer is not called, so that a vector there would have no effect.
    """
    called: set[int] = set()
    handles = [
        layers[k].register_forward_pre_hook(lambda module, args, k=k: called.add(k))
        for k in indices
    ]
    try:
        if indices:
            _read_tokens(model)
    finally:
        for handle in handles:
            handle.remove()
    missing = [k for k in indices if k not in called]
    if missing:
        raise ConfigError(
            "model.steering.layers",
            UNKNOWN,
            rule=f"a text does not reach the layers {missing} of {type(model).__name__}",
            why="These layers read pictures or sound, so vectors there would have no effect",
            fix="Leave these layers out, or set their vectors to zero",
        )


def _read_tokens(model: nn.Module) -> None:
    ids = torch.arange(3, 3 + NUM_TOKENS, device=next(model.parameters()).device)[None]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)


def _fits(model: nn.Module, layers: nn.ModuleList, indices: Sequence[int], site: str) -> bool:
    try:
        find_sites(layers, indices, site)
    except ConfigError:  # another layer may not have what the first one has
        return False
    return site == "layer_output" or _why_not(model, layers, indices, site) is None


def _why_not(
    model: nn.Module, layers: nn.ModuleList, indices: Sequence[int], site: str
) -> str | None:
    places, width = find_sites(layers, indices, site), stream_width(model)
    looks = [_Look(layers[k], place, site, width) for k, place in zip(indices, places, strict=True)]
    try:
        for look in looks:
            look.begin()
        _read_tokens(model)
    finally:
        for look in looks:
            look.end()
    reasons = zip(indices, [look.why_not() for look in looks], strict=True)
    return next((f"In layer {k} {reason}" for k, reason in reasons if reason is not None), None)


class _Look:
    """Observes the site of a layer during a pass.

    At the end of the layer its `forward` runs once more with the site's output shifted, which shows
    whether the site has an effect.

    Args:
        layer: Decoder layer.
        place: Module whose output is the site.
        site: Name of the site.
        width: Width of the residual stream.
    """

    def __init__(self, layer: nn.Module, place: nn.Module, site: str, width: int) -> None:
        self.layer, self.place, self.site, self.width = layer, place, site, width
        self.outputs: list[Any] = []
        self.reads: dict[str, list[torch.Tensor]] = {}
        self.runs_again = self.moves = False
        self.handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Places the hooks."""
        self.handles = [
            self.place.register_forward_hook(self._see),
            # before hooks that release the weights of a sharded layer
            self.layer.register_forward_hook(self._run_again, with_kwargs=True, prepend=True),
        ]
        for name, part in self.layer.named_children():
            reader = partial(self._note, name)
            self.handles.append(part.register_forward_pre_hook(reader, with_kwargs=True))

    def end(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()

    def _note(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if not self.runs_again:
            given = (*args, *kwargs.values())
            self.reads[name] = [x for x in given if isinstance(x, torch.Tensor)]

    def _see(self, module: nn.Module, args: object, output: Any) -> Any:
        if not self.runs_again:
            self.outputs.append(output)
            return None
        try:
            stream = stream_of(output)
        except SeveralStreamsError:  # `why_not` reports it
            return None
        # as large as the stream itself, so that a stream in 16 bits does not round it away
        shift = (1 + stream.abs().max()) * torch.linspace(1, 2, stream.shape[-1]).to(stream)
        return with_stream(output, stream + shift)

    def _run_again(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        self.runs_again = True
        again = self.layer.forward(*args, **kwargs)
        self.runs_again = False
        self.moves = not torch.equal(_first(output), _first(again))

    def why_not(self) -> str | None:
        """Returns why the module is not the site, or None if it is."""
        if len(self.outputs) != 1:
            return f"the module of that name is called {len(self.outputs)} times in a pass"
        try:
            stream = stream_of(self.outputs[0])
        except SeveralStreamsError:
            return "the module of that name does not return one stream (rows, tokens, width)"
        if stream.shape != (1, NUM_TOKENS, self.width):
            return f"the module of that name returns a tensor of shape {tuple(stream.shape)}"
        if not self.moves:
            return "the layer's output does not depend on the module of that name"
        reader = READERS.get(self.site)
        if reader is not None and not self._is_read(stream, not_by=_OTHER[self.site]):
            return f"the {reader} does not read the output of the module of that name"
        return None

    def _is_read(self, stream: torch.Tensor, not_by: Sequence[str]) -> bool:
        readers = [tensors for name, tensors in self.reads.items() if name not in not_by]
        return any(
            x.numel() == stream.numel() and torch.equal(x.reshape(stream.shape), stream)
            for tensors in readers
            for x in tensors
        )


_OTHER = {
    "input_norm": MODULES["mlp_output"],
    "post_attention_norm": MODULES["attention_output"],
}
"""Parts of a layer that do not count as readers: mixers and MLPs have many names, these only a
few."""


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return found
