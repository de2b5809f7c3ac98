"""What an update learns from, cut into micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from steer_lightning.training.skipped_layers import Kept
from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What an update learns from: B prompts, some of which are this process's."""

    rollouts: Rollouts
    """Of this process: b prompts."""
    own: torch.Tensor
    """(b,) int64, which of the B prompts they are."""
    advantages: torch.Tensor
    """(B, G) float32, of all processes."""
    num_tokens: torch.Tensor
    """(B, G) int64, tokens of each completion, of all processes."""
    takes_part: torch.Tensor
    """(B, G) bool, of all processes: the others are as if they had not been sampled."""

    @classmethod
    def alone(cls, rollouts: Rollouts, advantages: torch.Tensor) -> Batch:
        """The batch of a run with one process.

        Args:
            rollouts: Of B prompts.
            advantages: (B, G).
        """
        return cls(
            rollouts=rollouts,
            own=torch.arange(len(rollouts.prompts)),
            advantages=advantages,
            num_tokens=rollouts.num_tokens.view(advantages.shape),
            takes_part=torch.ones_like(advantages, dtype=torch.bool),
        )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Some rows of a batch, padded no further than their own longest.

    Left before the prompt, right behind it.
    """

    rows: torch.Tensor
    """(n,) int64, indices into the batch's N rows."""
    prompts: list[tuple[int, ...]]
    """n prompts as tokens, equal within a group."""
    groups: list[int]
    """n numbers of their prompts in the batch."""
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


@dataclass(kw_only=True)
class Part:
    """A micro-batch with what has been measured of its rows; it may be read several times."""

    micro_batch: MicroBatch
    kept: Kept
    """Of the layers below the first steered one."""
    is_idle: bool = False
    """Whether its rows count for nothing: read because other processes still read something."""
    old_logprobs: torch.Tensor | None = None
    """(n, T) float32, of the policy before the first update of the batch."""
    reference_logprobs: torch.Tensor | None = None
    """(n, T) float32, of the base with the vectors off."""


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
    groups = [n // rollouts.group_size for n in rows]
    prompts = [rollouts.prompts[group].token_ids for group in groups]
    left = torch.tensor([[pad] * (prompt_width - len(p)) + list(p) for p in prompts])
    left_mask = torch.tensor([[0] * (prompt_width - len(p)) + [1] * len(p) for p in prompts])
    index = torch.tensor(rows)
    completion_ids = rollouts.completion_ids[index, :width]
    completion_mask = rollouts.completion_mask[index, :width]
    return MicroBatch(
        rows=index,
        prompts=prompts,
        groups=groups,
        ids=torch.cat([left, completion_ids], 1),
        mask=torch.cat([left_mask, completion_mask.long()], 1),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        sampling_logprobs=rollouts.logprobs[index, :width],
    )
