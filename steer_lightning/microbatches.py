"""Cuts a batch of rollouts into micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Some rows of a batch, padded no further than their own longest.

    Left before the prompt, right behind it.
    """

    rows: torch.Tensor
    """(n,) int64, indices into the batch's N rows."""
    ids: torch.Tensor
    """(n, P + T) int64, prompts and completions."""
    mask: torch.Tensor
    """(n, P + T) int64, 0 where padded."""
    completion_ids: torch.Tensor
    """(n, T) int64, the last T columns of `ids`."""
    completion_mask: torch.Tensor
    """(n, T) bool."""
    sampling_logprobs: torch.Tensor
    """(n, T) float32."""


def micro_batches(
    rollouts: Rollouts, rows: torch.Tensor, max_tokens: int, pad: int
) -> Iterator[MicroBatch]:
    """Packs rows by length, longest first, so that each micro-batch holds little padding.

    Args:
        rollouts: The batch.
        rows: (n,) int64, the rows to take.
        max_tokens: Most tokens a micro-batch, padding included; a single longer row makes one of
            its own.
        pad: Token to pad with; always masked.

    Yields:
        Micro-batches that hold each row once.
    """
    prompt_lengths = torch.tensor([len(p.token_ids) for p in rollouts.prompts]).repeat_interleave(
        rollouts.group_size
    )
    lengths = rollouts.num_tokens
    order = sorted(rows.tolist(), key=lambda n: (-int(prompt_lengths[n] + lengths[n]), n))
    chosen: list[int] = []
    prompt_width = width = 0
    for n in order:
        wider = max(prompt_width, int(prompt_lengths[n])), max(width, int(lengths[n]))
        if chosen and sum(wider) * (len(chosen) + 1) > max_tokens:
            yield _build(rollouts, chosen, prompt_width, width, pad)
            chosen, wider = [], (int(prompt_lengths[n]), int(lengths[n]))
        chosen.append(n)
        prompt_width, width = wider
    if chosen:
        yield _build(rollouts, chosen, prompt_width, width, pad)


def _build(
    rollouts: Rollouts, rows: list[int], prompt_width: int, width: int, pad: int
) -> MicroBatch:
    prompts = [rollouts.prompts[n // rollouts.group_size].token_ids for n in rows]
    left = torch.tensor([[pad] * (prompt_width - len(p)) + list(p) for p in prompts])
    left_mask = torch.tensor([[0] * (prompt_width - len(p)) + [1] * len(p) for p in prompts])
    index = torch.tensor(rows)
    completion_ids = rollouts.completion_ids[index, :width]
    completion_mask = rollouts.completion_mask[index, :width]
    return MicroBatch(
        rows=index,
        ids=torch.cat([left, completion_ids], 1),
        mask=torch.cat([left_mask, completion_mask.long()], 1),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        sampling_logprobs=rollouts.logprobs[index, :width],
    )
