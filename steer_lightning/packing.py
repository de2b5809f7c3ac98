"""Packs the rows of a micro-batch into one sequence without padding, each prompt once.

Everything but attention works token by token, and so runs on the packed tokens: prompts first, each
once for all completions of its group, then the completions. Attention alone takes the tokens apart
into rows again, right-padded, in buckets of similar length, and puts its output back in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "steer_packed"
"""Name of the attention function; as no mask function has it, transformers builds no masks."""


class Packing:
    """Where each token of n rows lies in the packed sequence.

    Args:
        prompts: Tokens of the prompts of n rows; they are equal within a group.
        groups: For each row the number of its group.
        completions: Tokens of each row's completion, at least one.
        device: Of the tensors.

    Attributes:
        ids: (1, S) int64, all prompts and then all completions, each without its last token, which
            predicts nothing.
        positions: (1, S) of each token in its text.
        predictors: (Q,) places in the sequence whose logits predict the completions' tokens, row by
            row.
        targets: (Q,) these tokens.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        groups: Sequence[int],
        completions: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        ids: list[int] = []
        positions: list[int] = []
        start: dict[int, int] = {}
        for prompt, group in zip(prompts, groups, strict=True):
            if group not in start:
                start[group] = len(ids)
                ids += prompt
                positions += range(len(prompt))
        rows: list[list[int]] = []  # of each row: places of its tokens, prompt included
        predictors: list[int] = []
        for prompt, group, completion in zip(prompts, groups, completions, strict=True):
            first, new = len(ids), len(completion) - 1
            rows.append(
                [*range(start[group], start[group] + len(prompt)), *range(first, first + new)]
            )
            predictors += rows[-1][len(prompt) - 1 :]
            ids += completion[:-1]
            positions += range(len(prompt), len(prompt) + new)
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)
        self.predictors = torch.tensor(predictors, device=device)
        self.targets = torch.tensor([t for c in completions for t in c], device=device)
        self._bucket(rows, device)

    def _bucket(self, rows: list[list[int]], device: torch.device) -> None:
        """Rows of similar length together, right-padded; and the way back."""
        self.buckets: list[torch.Tensor] = []  # of (n, T) places
        place = [0] * self.ids.shape[1]
        offset = 0
        for bucket in buckets_by_length(rows):
            width = max(map(len, bucket))
            padded = [row + [0] * (width - len(row)) for row in bucket]
            for k, row in enumerate(bucket):
                for column, token in enumerate(row):
                    place[token] = offset + k * width + column
            offset += len(bucket) * width
            self.buckets.append(torch.tensor(padded, device=device))
        self._place = torch.tensor(place, device=device)
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def mask(self, width: int, window: int | None) -> torch.Tensor | None:
        """(T, T) bool for a sliding window; None where plain causality is enough."""
        if window is None or width <= window:
            return None
        if (width, window) not in self._masks:
            places = torch.arange(width, device=self.ids.device)
            distance = places[:, None] - places
            self._masks[width, window] = (distance >= 0) & (distance < window)
        return self._masks[width, window]

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: Any
    ) -> torch.Tensor:
        """(1, H, S, D) to (1, S, H, D)."""
        outputs = []
        for places in self.buckets:
            mask = self.mask(places.shape[1], window)
            output = scaled_dot_product_attention(
                _take(query, places),
                _take(key, places),
                _take(value, places),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            outputs.append(output.transpose(1, 2).flatten(0, 1))  # (n * T, H, D)
        return torch.cat(outputs).index_select(0, self._place)[None]


def buckets_by_length(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    """Rows, longest first, in buckets none of which holds a row of less than half its width."""
    bucket: list[list[int]] = []
    for row in sorted(rows, key=len, reverse=True):
        if bucket and 2 * len(row) < len(bucket[0]):
            yield bucket
            bucket = []
        bucket.append(row)
    if bucket:
        yield bucket


def _take(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, H, S, D) to (n, H, T, D)."""
    taken = states[0].index_select(1, places.flatten())
    return taken.view(states.shape[1], *places.shape, states.shape[3]).transpose(0, 1)


# not a context variable: with activation checkpointing autograd's own threads call `attend`, too
_CURRENT: list[Packing] = []


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """While the block runs, the model attends by the packing of `packed`."""
    text = model.config.get_text_config()
    before = text._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Forward and backward passes of the block are of this packing."""
    _CURRENT.append(packing)
    try:
        yield
    finally:
        _CURRENT.pop()


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
    """The attention function that transformers calls.

    Raises:
        NotImplementedError: For softcap and sinks; such models are trained on padded rows.
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with softcap or sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _CURRENT[-1].attend(query, key, value, scale, sliding_window), None


AttentionInterface.register(ATTENTION, attend)
