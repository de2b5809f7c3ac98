"""Keys and values of the completions in flight, through transformers' own doors.

A cache layer holds each prompt's keys and values once, for all G completions of its group, and a
preallocated tail for each completion. A registered attention function attends to both and joins the
two parts by their softmax sums. The model's own forward does the rest, so any transformers decoder
that goes through these doors decodes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from steer_lightning.rollout.attention_view import View
from steer_lightning.rollout.flight import Flight

ATTENTION = "steer_decode"
"""Name of the attention function; as no mask function has it, transformers builds no masks."""

FIRST_COLUMNS = 64
"""Tail columns allocated at first; they double as completions grow."""


class KeyValues(CacheLayerMixin):
    """Keys and values of one decoder layer.

    Prompts (P, K, T0, D) are flush right, as left-padded text is; tails (N, K, T, D) flush left.

    Args:
        flight: What is in flight; all layers read the same one.

    Attributes:
        view: What the pass under way sees of it; the flight itself, or a padded view.
    """

    is_sliding = False  # a sliding window is a mask here

    def __init__(self, flight: Flight) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flight = flight
        self.view: View = flight

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates room for all that can be in flight at once."""
        flight = self.flight

        def room(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
            return like.new_zeros(rows, like.shape[1], columns, like.shape[3])

        self.prefix = [
            room(like, flight.max_prompts, flight.max_width) for like in (key_states, value_states)
        ]
        columns = min(FIRST_COLUMNS, flight.max_columns)
        self.tail = [room(like, flight.max_rows, columns) for like in (key_states, value_states)]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values (rows, K, T, D); the attention function reads them here."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        view, new = self.view, (key_states, value_states)
        if view.prefilling is not None:
            for room, states in zip(self.prefix, new, strict=True):
                room[view.prefilling, :, -states.shape[2] :] = states
            return new
        self.reserve(view.num_columns)
        for room, states in zip(self.tail, new, strict=True):
            if view.column is not None:  # all rows are equally long: a slice is faster
                room[: view.num_rows, :, view.column] = states[:, :, 0]
            else:
                room[view.slots, :, view.columns] = states[:, :, 0]
        return new

    @property
    def num_columns(self) -> int:
        """Tail columns that there is room for; 0 in a layer without attention."""
        return self.tail[0].shape[2] if self.is_initialized else 0

    def reserve(self, num_columns: int) -> None:
        """Makes room for so many tail columns, in other memory if there was too little."""
        while 0 < self.num_columns < num_columns:
            self._grow()

    def _grow(self) -> None:
        columns = min(2 * self.tail[0].shape[2], self.flight.max_columns)
        for k, old in enumerate(self.tail):
            self.tail[k] = old.new_zeros(*old.shape[:2], columns, old.shape[3])
            self.tail[k][:, :, : old.shape[2]] = old

    def copy_rows(self, source: torch.Tensor, target: torch.Tensor, num_columns: int) -> None:
        """Copies tails into slots that are free."""
        if not self.is_initialized:
            return  # a layer without attention has none
        for room in self.tail:
            room[target, :, :num_columns] = room[source, :, :num_columns]

    def move_prompts(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Moves prompts into slots that have become free."""
        for room in self.prefix:
            room[target] = room[source]

    def get_seq_length(self) -> int:
        """Nothing asks for it where positions are given and no mask is built."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As `get_seq_length`."""
        return query_length, 0

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.16, abstract there


_LAYERS: ContextVar[list[KeyValues]] = ContextVar("layers")


@contextmanager
def decoding(model: Any, flight: Flight) -> Iterator[tuple[Cache, list[KeyValues]]]:
    """Lets a model attend through `KeyValues` while the block runs; yields its cache."""
    text = model.config.get_text_config()
    layers = [KeyValues(flight) for _ in range(text.num_hidden_layers)]
    before = text._attn_implementation
    token = _LAYERS.set(layers)
    model.set_attn_implementation(ATTENTION)
    try:
        yield Cache(layers=layers), layers  # type: ignore[arg-type]  # a list of a subclass
    finally:
        model.set_attn_implementation(before)
        _LAYERS.reset(token)


@contextmanager
def seen_as(layers: list[KeyValues], view: View) -> Iterator[None]:
    """Lets passes see the flight by another view while the block runs."""
    for layer in layers:
        layer.view = view
    try:
        yield
    finally:
        for layer in layers:
            layer.view = layer.flight


def attend(
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
    """Attention over prompts and tails; registered with transformers.

    Args:
        module: The attention module, which knows its layer.
        query: (rows, H, T, D).
        key: (rows, K, T, D), of these tokens alone.
        value: The same.
        attention_mask: Not used: the flight knows what each row may see.
        scaling: Default D ** -0.5.
        sliding_window: Width of the window that this layer sees; None sees all.
        softcap: Not supported.
        s_aux: Not supported.
        kwargs: Others, such as `dropout`, which is 0 in eval mode.

    Returns:
        (rows, T, H, D), and None for the weights.

    Raises:
        NotImplementedError: For what is not supported; the engine's self-check falls back then.
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with softcap or sinks")
    layer = _LAYERS.get()[module.layer_idx]  # type: ignore[index]
    view = layer.view
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if view.prefilling is not None:
        mask = layer.flight.prefill_mask(sliding_window)
        output = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return output.transpose(1, 2), None
    return _decode(view, layer, query * scaling, sliding_window), None


def _decode(view: View, layer: KeyValues, query: torch.Tensor, window: int | None) -> torch.Tensor:
    """One token a row: (N, H, 1, D) to (N, 1, H, D)."""
    num_rows, heads, _, size = query.shape
    keys, values = (room[:num_rows, :, : view.num_columns] for room in layer.tail)
    kv_heads = keys.shape[1]
    folded = query.reshape(num_rows, kv_heads, heads // kv_heads, size)
    prefix_bias, tail_bias = view.biases(window, heads // kv_heads)
    tail = _part(folded, keys, values, tail_bias)
    prompts = [room[: view.num_prompts, :, -view.width :] for room in layer.prefix]
    grouped = view.to_groups(folded)
    prefix = [
        view.from_groups(part, heads // kv_heads)
        for part in _part(grouped, prompts[0], prompts[1], prefix_bias)
    ]
    joined = _join(prefix, tail).to(query.dtype)
    return joined.reshape(num_rows, 1, heads, values.shape[-1])


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # weighted values, sums, maxima


def _part(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None
) -> Part:
    """Attention over a part of the tokens, not yet normalised; scores in float32."""
    scores = torch.matmul(query, keys.transpose(2, 3)).float()
    if bias is not None:
        scores += bias
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    return (
        torch.matmul(weights.to(values.dtype), values).float(),
        weights.sum(-1, keepdim=True),
        largest,
    )


def _join(one: Any, two: Any) -> torch.Tensor:
    """The softmax over both parts: each is weighted by its share of the sum."""
    largest = torch.maximum(one[2], two[2])
    share_one, share_two = (one[2] - largest).exp_(), (two[2] - largest).exp_()
    total = one[1] * share_one + two[1] * share_two
    joined: torch.Tensor = (one[0] * share_one + two[0] * share_two) / total
    return joined


AttentionInterface.register(ATTENTION, attend)
