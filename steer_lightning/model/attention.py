"""The interface to the attention of transformers: custom functions, and their cache layers.

Models look up the function that their configuration names in `ALL_ATTENTION_FUNCTIONS`, and build
no mask for a name without a mask function. Tested with transformers 5.23.
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
    """The arguments that a model passes to its attention function in one layer."""

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
    """Width of the sliding window of the layer; None for a layer without one."""
    softcap: float | None
    """Cap of the scores; None for no cap."""
    sinks: torch.Tensor | None
    """Scores (H,) of attention sinks; None for no sinks."""

    @property
    def layer(self) -> int:
        """Number of the decoder layer; raises an AttributeError if its module does not have it."""
        number: int = self.module.layer_idx  # type: ignore[assignment]
        return number

    def over(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attends from queries to keys, with the settings of this call.

        Args:
            query: Queries (rows, H, T, D).
            key: Keys (rows, K, S, D).
            value: Values (rows, K, S, E).
            mask: Mask of the keys that each query may see, bool, or numbers to add to the scores,
                broadcast to (rows, H, T, S); None for the causal mask, with S = T.

        Returns:
            Output (rows, T, H, E).
        """
        if self.softcap is None and self.sinks is None:
            if mask is not None and query.is_cuda:  # with both, only the slow kernel is left
                times = query.shape[1] // key.shape[1]
                key, value = (x.repeat_interleave(times, 1) for x in (key, value))
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
        """Attends with all scores in memory, so that they can be capped and extended by sinks."""
        rows, heads, width, _ = query.shape
        key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
        scores = self.capped(torch.matmul(query * self.scale, key.transpose(2, 3)).float())
        if mask is None:
            mask = torch.ones(width, width, dtype=torch.bool, device=query.device).tril()
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + mask
        if self.sinks is not None:
            sinks = self.sinks.float()[:, None, None].expand(rows, heads, width, 1)
            scores = torch.cat([scores, sinks], -1)
        weights = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
        return torch.matmul(weights, value).transpose(1, 2)

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns the scores, capped if there is a cap."""
        return scores if self.softcap is None else self.softcap * (scores / self.softcap).tanh()


Attention = Callable[[AttentionCall], torch.Tensor]
"""Custom attention function, which returns the output (rows, T, H, D). It gets no mask, because it
knows which tokens each token may see."""

_NUMBERS = count()  # numbers for the names, so that two models can be in such a block at once


@contextmanager
def attention_by(model: Any, attend: Attention) -> Iterator[None]:
    """Makes a model use a custom attention function within the block.

    Args:
        model: Language model of transformers.
        attend: Function that replaces the model's own.

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


@contextmanager
def open_weights(model: Any) -> Iterator[None]:
    """Makes the attention modules of a model return their weights within the block.

    Only the plain implementation of transformers, `eager`, has all weights in memory. A model whose
    implementation can't be exchanged stays as it is; see `weights_in`.

    Args:
        model: Language model of transformers.

    Yields:
        Nothing.
    """
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


SUM_TOLERANCE = 0.02
"""Largest excess over 1 of the sum of a query's weights; rounding to 16 bits explains half."""


def weights_in(output: Any, num_tokens: int) -> torch.Tensor | None:
    """Returns the weights in the output of an attention module that has read a single text.

    Args:
        output: Output of the module, a sequence of the stream and the weights.
        num_tokens: Number T of tokens in the text.

    Returns:
        Weights (H, T, T) float32 by head, query and key, which add up to 1 for each query, or to
        less if there is a sink. None if the output has no such weights: the module computes
        attention in some other way, or over something other than the tokens.
    """
    found = output[1] if isinstance(output, (tuple, list)) and len(output) > 1 else None
    if not isinstance(found, torch.Tensor) or found.dim() != 4:
        return None
    if found.shape[0] != 1 or found.shape[2:] != (num_tokens, num_tokens):
        return None
    weights = found[0].float()
    is_causal = not bool(weights.triu(1).any())
    in_range = bool((weights >= 0).all()) and bool((weights.sum(-1) <= 1 + SUM_TOLERANCE).all())
    return weights if is_causal and in_range else None


def _as_transformers_calls(attend: Attention) -> Callable[..., tuple[torch.Tensor, None]]:
    """Returns an attention function with the signature that transformers calls.

    Further arguments of models do not change the result, such as `dropout`, which is 0 in eval
    mode.
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
    """A cache layer for an attention function that knows which tokens each token may see."""

    is_sliding = False  # here a sliding window is a mask

    def get_seq_length(self) -> int:
        """Returns 0; the length is not needed if positions are given and no mask is built."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the sizes of a mask over the new tokens only; no mask is built."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Returns -1, since the layer has no maximum length."""
        return -1


def sources_of_keys(config: Any) -> list[int]:
    """Returns the number of the layer whose keys and values each decoder layer reads.

    This is the layer itself, except for the upper layers of Gemma 3n and 4: they read those of the
    last layer of their type that has its own.

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
    """Returns a cache for `past_key_values` that consists of one `CacheLayer` per decoder layer.

    Args:
        layers: Cache layer of each decoder layer.
    """
    return Cache(layers=layers)
