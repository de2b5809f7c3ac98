"""Packs the rows of a micro-batch into one sequence: no padding, and no token of a group twice.

Rows of a group have their prompt in common, and completions often begin with the same words, or are
the same altogether: the sharper the policy, the more so. What two rows have in common from the
start is read once, since a token's hidden state depends on the tokens before it alone. Everything
but attention works token by token, and so runs on the packed tokens. Attention alone takes the
tokens apart into rows again, right-padded, in buckets of similar length, and puts its output back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from steer_lightning.steering.tokens import COMPLETION, LAST_PROMPT, PROMPT

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
        ids: (1, S) int64, the rows' tokens, each without its last one, which predicts nothing.
        positions: (1, S) of each token in its text.
        roles: (1, S) of each token, of `steering.tokens`.
        predictors: (Q,) places in the sequence whose logits predict tokens of completions.
        targets: (Q,) these tokens; no pair of place and token comes twice.
        copies: (number of all completions' tokens,) for each of them, row by row, its pair.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        groups: Sequence[int],
        completions: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        texts = [[*p, *c[:-1]] for p, c in zip(prompts, completions, strict=True)]
        ids, positions, rows = share_beginnings(texts, groups)
        pairs: dict[tuple[int, int], int] = {}
        copies = [
            pairs.setdefault(pair, len(pairs))
            for row, prompt, completion in zip(rows, prompts, completions, strict=True)
            for pair in zip(row[len(prompt) - 1 :], completion, strict=True)
        ]
        predictors, targets = zip(*pairs, strict=True)
        roles = [COMPLETION] * len(ids)
        for row, prompt in zip(rows, prompts, strict=True):
            for place in row[: len(prompt) - 1]:
                roles[place] = PROMPT
            roles[row[len(prompt) - 1]] = LAST_PROMPT
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)
        self.roles = torch.tensor([roles], device=device)
        self.predictors = torch.tensor(predictors, device=device)
        self.targets = torch.tensor(targets, device=device)
        self.copies = torch.tensor(copies, device=device)
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


def share_beginnings(
    texts: Sequence[Sequence[int]], groups: Sequence[int]
) -> tuple[list[int], list[int], list[list[int]]]:
    """Lays texts out one behind the other, without what an earlier one of the group begins with.

    In alphabetical order a text has its longest common beginning with the one before it.

    Returns:
        Tokens and their positions in their texts, and for each text the places of its tokens.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[list[int]] = [[] for _ in texts]
    last: int | None = None
    for n in sorted(range(len(texts)), key=lambda n: (groups[n], texts[n])):
        text, common = texts[n], 0
        if last is not None and groups[last] == groups[n]:
            common = common_length(texts[last], text)
            rows[n] = rows[last][:common]
        rows[n] += range(len(ids), len(ids) + len(text) - common)
        ids += text[common:]
        positions += range(common, len(text))
        last = n
    return ids, positions, rows


def common_length(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two texts have in common from the start."""
    differ = (k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return next(differ, min(len(one), len(two)))


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
