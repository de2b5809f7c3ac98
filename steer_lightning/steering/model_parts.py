"""The interface to parts of a transformers model beside its layers, for what is trained.

Decoder layers and places in them are found by `steering.layers` and `steering.sites`. Tested with
transformers 5.0 and 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


def output_layer(model: Any) -> nn.Module:
    """Returns the layer that turns the stream into logits."""
    layer: nn.Module = model.get_output_embeddings()
    return layer


def has_cached_tokens(inputs: Mapping[str, Any]) -> bool:
    """Tells whether a forward pass goes on behind tokens whose keys and values are in its cache.

    Args:
        inputs: Keyword arguments of the model's forward pass.
    """
    cache = inputs.get("past_key_values")
    return cache is not None and cache.get_seq_length() > 0


@contextmanager
def outputs_seen(
    places: Sequence[nn.Module], see: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Shows the output of some modules in the forward passes of the block.

    Args:
        places: Modules, such as decoder layers; some return a tuple that starts with the stream.
        see: Function that takes the number of a module in `places`, and its stream (rows, T, D).
    """

    def hook(row: int, module: nn.Module, args: object, output: Any) -> None:
        see(row, output if isinstance(output, torch.Tensor) else output[0])

    handles = [place.register_forward_hook(partial(hook, row)) for row, place in enumerate(places)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
