"""The interface to parts of a transformers model beside its layers, for what is trained.

Decoder layers and places in them are found by `steering.layers` and `steering.sites`. Tested with
transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError


def output_layer(model: Any) -> nn.Module:
    """Returns the layer that turns the stream into logits."""
    layer: nn.Module = model.get_output_embeddings()
    return layer


@contextmanager
def one_logit(model: Any) -> Iterator[None]:
    """Lets a model compute the logits of the first position alone in the passes of the block.

    It saves the memory of the others, as `logits_to_keep` does. But with that number, layers of
    Gemma 4 that share keys read the kept positions alone.

    Args:
        model: Language model of transformers; one that does not tell its output layer computes all.
    """

    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][:, :1], *inputs[1:])

    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()


CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states", "cache")
"""Names of the argument that holds what a model has read before."""


def has_cached_tokens(inputs: Mapping[str, Any]) -> bool:
    """Tells whether a forward pass goes on behind tokens that its cache holds.

    Args:
        inputs: Arguments of the model's forward pass, by name.

    Raises:
        ConfigError: If there is a cache of which that is not known.
    """
    return any(_is_filled(inputs[name]) for name in CACHES if inputs.get(name) is not None)


def _is_filled(cache: Any) -> bool:
    """Tells whether a cache holds tokens; that of recurrent layers has states, and no length."""
    for method in ("get_seq_length", "has_previous_state"):
        try:
            return int(getattr(cache, method)()) > 0
        except (AttributeError, ValueError):  # of another kind of layer
            continue
    raise ConfigError(
        "model.steering.tokens",
        UNKNOWN,
        rule=f"the cache of this pass, {type(cache).__name__}, does not tell whether it is empty",
        why="What is read into an empty cache is the prompt, and what follows is the completion",
        fix="Call model.generate, which tells them apart, or set model.steering.tokens: all",
    )


class SeveralStreamsError(ConfigError):
    """Refuses a site whose output is not one stream."""


def stream_of(output: Any, width: int | None = None) -> torch.Tensor:
    """Returns the stream in the output of a site's module: the output itself, or its first part.

    Args:
        output: Output of a module, (rows, T, D) or a sequence that starts with it.
        width: Width D that it must have; default: any.

    Raises:
        SeveralStreamsError: If it is no tensor of three dimensions, or is wider.
    """
    stream = output[0] if isinstance(output, (tuple, list)) else output
    if isinstance(stream, torch.Tensor) and stream.dim() == 3 and width in (None, stream.shape[2]):
        return stream
    shape = f" of shape {tuple(stream.shape)}" if isinstance(stream, torch.Tensor) else ""
    raise SeveralStreamsError(
        "model.steering.site",
        UNKNOWN,
        rule=f"the place hands on a {type(stream).__name__}{shape}, but a vector needs one stream "
        f"of shape (rows, tokens, {'width' if width is None else width})",
        why="The layers of Gemma 3n, DeepSeek V4, HY V4 and Qwen4 hand on several streams beside "
        "each other. Each has a meaning of its own, and one vector can't be meant for all of them",
        fix="Set model.steering.site: mlp_output or attention_output. The model itself then "
        "distributes what is added there over its streams",
    )


def with_stream(output: Any, stream: torch.Tensor) -> Any:
    """Returns the output of a site's module with another stream; see `stream_of`."""
    if isinstance(output, torch.Tensor):
        return stream
    make = getattr(output, "_make", type(output))  # of a named tuple
    return make([stream, *output[1:]])


@contextmanager
def outputs_seen(
    places: Sequence[nn.Module], see: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Shows the output of some modules in the forward passes of the block.

    Args:
        places: Modules, such as decoder layers; some return a tuple that starts with the stream.
        see: Function that takes the number of a module in `places`, and its stream (rows, T, D).

    Raises:
        SeveralStreamsError: In a pass, if the output of a module is not one stream.
    """

    def hook(row: int, module: nn.Module, args: object, output: Any) -> None:
        see(row, stream_of(output))

    handles = [place.register_forward_hook(partial(hook, row)) for row, place in enumerate(places)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
