"""The interface to parts of a transformers model other than its layers.

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


@contextmanager
def one_logit(model: Any) -> Iterator[None]:
    """Makes a model compute only the logits of the first position within the block.

    This saves the memory of the other logits, like `logits_to_keep`. But with `logits_to_keep`,
    layers of Gemma 4 that share keys would read only the kept positions.

    Args:
        model: Language model of transformers; a model that does not expose its output layer
            computes all logits.
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
"""Names of the argument for the cache of a model."""


def has_cached_tokens(inputs: Mapping[str, Any]) -> bool:
    """Returns whether a forward pass continues after tokens in its cache.

    Args:
        inputs: Arguments of the model's forward pass, by name.

    Raises:
        ConfigError: If there is a cache and it does not say whether it is empty.
    """
    return any(_is_filled(inputs[name]) for name in CACHES if inputs.get(name) is not None)


def _is_filled(cache: Any) -> bool:
    """Returns whether a cache holds tokens; one of recurrent layers has states but no length."""
    for method in ("get_seq_length", "has_previous_state"):
        try:
            return int(getattr(cache, method)()) > 0
        except (AttributeError, ValueError):  # cache of another kind of layer
            continue
    raise ConfigError(
        "model.steering.tokens",
        UNKNOWN,
        rule=f"the cache of this pass, {type(cache).__name__}, does not say whether it is empty",
        why="Tokens read into an empty cache are the prompt, and later tokens are the completion",
        fix="Call model.generate, which distinguishes them, or set model.steering.tokens: all",
    )


class SeveralStreamsError(ConfigError):
    """Refuses a site whose output is not one stream."""


def stream_of(output: Any, width: int | None = None) -> torch.Tensor:
    """Returns the stream in the output of a site's module: the output itself, or its first part.

    Args:
        output: Output of a module, (rows, T, D) or a sequence that starts with it.
        width: Width D that the stream must have; None allows any.

    Raises:
        SeveralStreamsError: If the output is not a tensor of three dimensions, or has another
            width.
    """
    stream = output[0] if isinstance(output, (tuple, list)) else output
    if isinstance(stream, torch.Tensor) and stream.dim() == 3 and width in (None, stream.shape[2]):
        return stream
    shape = f" of shape {tuple(stream.shape)}" if isinstance(stream, torch.Tensor) else ""
    raise SeveralStreamsError(
        "model.steering.site",
        UNKNOWN,
        rule=f"the output at this site is a {type(stream).__name__}{shape}, but a vector needs "
        f"one stream of shape (rows, tokens, {'width' if width is None else width})",
        why="The layers of Gemma 3n, DeepSeek V4, HY V4 and Qwen4 pass on several streams in "
        "parallel. Each stream has a meaning of its own, so one vector can't serve all of them",
        fix="Set model.steering.site: mlp_output or attention_output. The model itself then "
        "distributes the vector over its streams",
    )


def with_stream(output: Any, stream: torch.Tensor) -> Any:
    """Returns the output of a site's module with another stream; see `stream_of`."""
    if isinstance(output, torch.Tensor):
        return stream
    make = getattr(output, "_make", type(output))  # for a named tuple
    return make([stream, *output[1:]])


@contextmanager
def outputs_seen(
    places: Sequence[nn.Module], see: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Calls a function with the output of some modules in each forward pass within the block.

    Args:
        places: Modules, such as decoder layers; some return a tuple that starts with the stream.
        see: Function that takes the number of a module in `places` and its stream (rows, T, D).

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
