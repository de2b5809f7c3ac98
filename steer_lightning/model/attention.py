"""The interface to transformers' attention: functions of our own, and the layers of their caches.

Models ask `ALL_ATTENTION_FUNCTIONS` for the function that their configuration names, and build no
mask for a name that has no mask function. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
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

    def over(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attends from queries to keys as this call asks.

        Args:
            query: Queries (rows, H, T, D).
            key: Keys (rows, K, T, D).
            value: Values (rows, K, T, E).
            mask: What each query may see, bool, broadcast to (rows, H, T, T); None is what stands
                before it and itself.

        Returns:
            Output (rows, T, H, E).
        """
        if self.softcap is None and self.sinks is None:
            output = scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None,
                scale=self.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            return output.transpose(1, 2)
        return self._by_softmax(query, key, value, mask)

    def _by_softmax(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attends with all scores in memory, which can be capped and get sinks beside them."""
        rows, heads, width, _ = query.shape
        key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
        scores = self.capped(torch.matmul(query * self.scale, key.transpose(2, 3)).float())
        if mask is None:
            mask = torch.ones(width, width, dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        if self.sinks is not None:
            sinks = self.sinks.float()[:, None, None].expand(rows, heads, width, 1)
            scores = torch.cat([scores, sinks], -1)
        weights = scores.softmax(-1)[..., :width].to(value.dtype)
        return torch.matmul(weights, value).transpose(1, 2)

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores within the cap, if there is one."""
        return scores if self.softcap is None else self.softcap * (scores / self.softcap).tanh()


Attention = Callable[[AttentionCall], torch.Tensor]
"""Attention function of our own, which returns the output (rows, T, H, D).

It gets no mask: it knows by itself what each token may see."""

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


def sources_of_keys(config: Any) -> list[int]:
    """Returns the number of the layer whose keys and values each decoder layer reads.

    It is the layer itself, but for the upper layers of a Gemma 3n or 4: they read those of the last
    layer of their type that has some.

    Args:
        config: Configuration of the language model.
    """
    sources = list(range(config.num_hidden_layers))
    modes = getattr(config, "kv_sharing_modes", None) or []
    stored = {config.layer_types[k]: k for k, mode in enumerate(modes) if mode == "store"}
    for k, mode in enumerate(modes):
        if mode == "reuse":
            sources[k] = stored[config.layer_types[k]]
    return sources


def cache_of(layers: list[Any]) -> Cache:
    """Returns the cache that a model takes as `past_key_values`, made of one `CacheLayer` a layer.

    Args:
        layers: Cache layer of each decoder layer.
    """
    return Cache(layers=layers)
