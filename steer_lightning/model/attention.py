"""The interface to transformers' attention: functions of our own, and the layers of their caches.

Models ask `ALL_ATTENTION_FUNCTIONS` for the function that their configuration names, and build no
mask for a name that has no mask function. Tested with transformers 5.0 and 5.23; `DecodeEngine` has
also run on 5.8, 5.12 and 5.16 without a fall-back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """What a model hands to its attention function in one layer."""

    module: torch.nn.Module
    """Attention module of the layer."""
    query: torch.Tensor
    """Queries (rows, H, T, D)."""
    key: torch.Tensor
    """Keys (rows, K, T, D)."""
    value: torch.Tensor
    """Values (rows, K, T, D)."""
    scale: float
    """Factor of the scores."""
    window: int | None
    """Width of the sliding window that the layer sees; None sees all."""
    softcap: float | None
    """Cap of the scores; None has no cap."""
    sinks: torch.Tensor | None
    """Scores (H,) of attention sinks; None has no sinks."""

    @property
    def layer(self) -> int:
        """Number of the decoder layer; an AttributeError if its module does not know it."""
        number: int = self.module.layer_idx  # type: ignore[assignment]
        return number

    def refuse(self, *names: str) -> None:
        """Raises a NotImplementedError if one of these fields, which change the result, is set.

        The self-checks of the engine and of the update then fall back to the model's own attention.
        """
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise NotImplementedError(f"attention with {' and '.join(given)}")


Attention = Callable[[AttentionCall], torch.Tensor]
"""Attention function of our own, which returns the output (rows, T, H, D).

It refuses the fields of its call that it does not compute. It gets no mask: it knows by itself what
each token may see."""

_NUMBERS = count()  # numbers for the names, so that two models can be in a block at once


@contextmanager
def attention_by(model: Any, attend: Attention) -> Iterator[None]:
    """Lets a model attend by a function of our own while the block runs.

    Args:
        model: Language model of transformers.
        attend: Function that takes the place of the model's own.

    Yields:
        Nothing.
    """
    text = model.config.get_text_config()
    before = text._attn_implementation
    name = f"steer_lightning_{next(_NUMBERS)}"
    ALL_ATTENTION_FUNCTIONS[name] = _as_transformers_calls(attend)
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS[name]


def _as_transformers_calls(attend: Attention) -> Callable[..., tuple[torch.Tensor, None]]:
    """Returns an attention function with the signature that transformers calls.

    Further arguments that models pass, such as `dropout`, 0 in eval mode, do not change the result.
    """

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        call = AttentionCall(
            module=module,
            query=query,
            key=key,
            value=value,
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            window=sliding_window,
            softcap=softcap,
            sinks=s_aux,
        )
        return attend(call), None

    return attention


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
