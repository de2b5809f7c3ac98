"""The interface to transformers' attention: functions of our own, and the layers of their caches.

Models ask `ALL_ATTENTION_FUNCTIONS` for the function that their configuration names, and build no
mask for a name that has no mask function. Tried with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Attention = Callable[..., tuple[torch.Tensor, None]]
"""Attention function of the form that transformers calls.

It takes the attention module, the query, key and value, (rows, heads, T, D), and any further
arguments that models pass; it returns the output (rows, T, heads, D), and None for the weights."""

_NUMBERS = count()  # numbers for the names, so that two models can be in a block at once


@contextmanager
def attention_by(model: Any, attend: Attention) -> Iterator[None]:
    """Lets a model attend by a function of our own while the block runs.

    Args:
        model: Language model of transformers.
        attend: Function that takes the place of the model's own; `check_arguments` refuses what it
            does not compute.

    Yields:
        Nothing.
    """
    text = model.config.get_text_config()
    before = text._attn_implementation
    name = f"steer_lightning_{next(_NUMBERS)}"
    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS[name]


def check_arguments(**unsupported: object) -> None:
    """Raises a NotImplementedError for arguments that would change the result.

    The self-checks of the engine and of the update then fall back to the model's own attention.

    Args:
        unsupported: Arguments by name, such as `softcap`; None where a model passes none.
    """
    given = [name for name, value in unsupported.items() if value is not None]
    if given:
        raise NotImplementedError(f"attention with {' and '.join(given)}")


class CacheLayer(CacheLayerMixin):
    """A cache layer whose attention function knows by itself what each token may see."""

    is_sliding = False  # a sliding window is a mask here

    def get_seq_length(self) -> int:
        """Returns 0; the length has no use where positions are given and no mask is built."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the sizes of a mask over the new tokens alone; no mask is built."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Returns -1: the layer has no bound of its own."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.16


def cache_of(layers: list[Any]) -> Cache:
    """Returns the cache that a model takes as `past_key_values`, made of one `CacheLayer` a layer.

    Args:
        layers: Cache layer of each decoder layer.
    """
    return Cache(layers=layers)
