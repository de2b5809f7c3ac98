"""The carriers of an update: the batch of a step, and its parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.rollout.completions import left_padded, text_lengths
from steer_lightning.rollout.exact_engine import blocks
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.training.skipped_layers import KeptStream
from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The completions of B prompts, from which an update learns; b of them are of this process."""

    rollouts: Rollouts
    """Completions of the b prompts of this process."""
    own: torch.Tensor
    """Indices of these b prompts among the B prompts, (b,) int64."""
    advantages: torch.Tensor
    """Advantages of the completions of all processes, (B, G) float32."""
    num_tokens: torch.Tensor
    """Number of tokens of each completion of all processes, (B, G) int64."""
    takes_part: torch.Tensor
    """Whether each completion of all processes takes part in the update, (B, G) bool. The others
    are treated as if they had not been sampled."""

    @classmethod
    def alone(cls, rollouts: Rollouts, advantages: torch.Tensor) -> Batch:
        """Returns the batch of a run with one process.

        Args:
            rollouts: Completions of B prompts.
            advantages: Advantage of each completion, (B, G).
        """
        return cls(
            rollouts=rollouts,
            own=torch.arange(len(rollouts.prompts)),
            advantages=advantages,
            num_tokens=rollouts.completion_mask.sum(1).view(advantages.shape),
            takes_part=torch.ones_like(advantages, dtype=torch.bool),
        )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Some rows of a batch, padded to the length of the longest of them.

    Prompts are padded on the left, completions on the right.
    """

    rows: torch.Tensor
    """Indices of the n rows among the batch's N, (n,) int64."""
    prompts: list[tuple[int, ...]]
    """Tokens of each row's prompt, equal within a group."""
    groups: list[int]
    """Number of each row's prompt in the batch."""
    ids: torch.Tensor
    """Tokens of prompts and completions, (n, P + T) int64."""
    mask: torch.Tensor
    """Mask of `ids`, (n, P + T) int64, 0 where padded."""
    completion_ids: torch.Tensor
    """Tokens of the completions, the last T columns of `ids`, (n, T) int64."""
    completion_mask: torch.Tensor
    """Mask of `completion_ids`, (n, T) bool, False where padded."""
    sampling_logprobs: torch.Tensor
    """Log-probabilities of the tokens when they were sampled, in nats, (n, T) float32."""
    guided: torch.Tensor | None = None
    """Whether each row was sampled with a hint in its prompt, (n,) bool; None if no row of the
    process was."""
    block: MicroBatch | None = None
    """Rows that are read together with these, so that the result equals that of `ExactEngine` to
    the last bit; None reads only these rows."""


@dataclass(kw_only=True)
class KeptMicroBatch:
    """A micro-batch with the tensors that are kept between the passes over it."""

    micro_batch: MicroBatch
    """The n rows."""
    prepared: Any
    """The rows as `Forward.prepare` returned them, ready to be read."""
    stream: KeptStream | None = None
    """Stream into the first steered layer, kept between passes; None if no layer is skipped."""
    is_idle: bool = False
    """Whether the rows do not count, and are read only because other processes still read."""
    old_logprobs: torch.Tensor | None = None
    """Log-probabilities under the policy before the batch's first optimizer step, in nats, (n, T)
    float32, with the hint where a row has one; None until they are known."""
    reference_logprobs: torch.Tensor | None = None
    """Log-probabilities under the base, with the vectors off, in nats, (n, T) float32; None until
    they have been requested."""


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """The share of this process in the completions from which one optimizer step learns."""

    advantages: torch.Tensor
    """Advantages of all rows in the rollouts of this process, (N,) float32."""
    micro_batches: list[KeptMicroBatch]
    """Micro-batches of the step. Processes that share a sharded base have the same number of them,
    since each pass gathers weights."""
    num_rows: int
    """Number of completions of the step, over all processes."""
    num_tokens: int
    """Number of tokens of these completions."""


def padded_micro_batches(
    rollouts: Rollouts, rows: torch.Tensor, max_tokens: int, pad: int
) -> Iterator[MicroBatch]:
    """Splits rows into micro-batches that are padded, longest first, so that padding is rare.

    Args:
        rollouts: Completions of the batch.
        rows: Indices of the rows to take, (n,) int64.
        max_tokens: Maximum number of tokens in a micro-batch, padding included; a longer row gets a
            micro-batch of its own.
        pad: Token to pad with; it is always masked.

    Yields:
        Micro-batches that together contain each row once.
    """
    lengths, texts = rollouts.completion_mask.sum(1), text_lengths(rollouts)
    prompt_lengths = texts - lengths
    order = sorted(rows.tolist(), key=lambda n: (-int(texts[n]), n))
    chosen: list[int] = []
    prompt_width = width = 0
    for n in order:
        wider = max(prompt_width, int(prompt_lengths[n])), max(width, int(lengths[n]))
        if chosen and sum(wider) * (len(chosen) + 1) > max_tokens:
            yield _build(rollouts, chosen, width, pad)
            chosen, wider = [], (int(prompt_lengths[n]), int(lengths[n]))
        chosen.append(n)
        prompt_width, width = wider
    if chosen:
        yield _build(rollouts, chosen, width, pad)


def packed_micro_batches(
    rollouts: Rollouts, rows: torch.Tensor, max_tokens: int, pad: int
) -> Iterator[MicroBatch]:
    """Splits rows into micro-batches that are packed, so that few prompts are in two of them.

    The rows of a prompt follow each other, prompts with long texts first.

    Args:
        rollouts: Completions of the batch.
        rows: Indices of the rows to take, (n,) int64.
        max_tokens: Maximum number of tokens of all texts of a micro-batch, each with its prompt; a
            longer row gets a micro-batch of its own.
        pad: Token to pad with; it is always masked.

    Yields:
        Micro-batches that together contain each row once.
    """
    lengths, texts = rollouts.completion_mask.sum(1), text_lengths(rollouts)
    longest = texts.view(-1, rollouts.group_size).amax(1).repeat_interleave(rollouts.group_size)
    order = sorted(rows.tolist(), key=lambda n: (-int(longest[n]), n))
    chosen: list[int] = []
    size = 0
    for n in order:
        if chosen and size + int(texts[n]) > max_tokens:
            yield _build(rollouts, chosen, int(lengths[chosen].max()), pad)
            chosen, size = [], 0
        chosen.append(n)
        size += int(texts[n])
    if chosen:
        yield _build(rollouts, chosen, int(lengths[chosen].max()), pad)


def block_micro_batches(
    rollouts: Rollouts, rows: torch.Tensor, max_tokens: int, pad: int
) -> Iterator[MicroBatch]:
    """Splits rows into micro-batches that are read in the blocks of `ExactEngine`.

    Args:
        rollouts: Completions of the batch.
        rows: Indices of the rows to take, (n,) int64.
        max_tokens: Maximum number of tokens in a block.
        pad: Token to pad with; it is always masked.

    Yields:
        Micro-batches that together contain each row once.
    """
    wanted = set(rows.tolist())
    for group in range(len(rollouts.prompts)):
        for block in blocks(rollouts, group, max_tokens):
            chosen = [n for n in block if n in wanted]
            if chosen:
                width = int(rollouts.completion_mask.sum(1)[block].max())
                read = _build(rollouts, block, width, pad)
                yield replace(_build(rollouts, chosen, width, pad), block=read)


def _build(rollouts: Rollouts, rows: list[int], width: int, pad: int) -> MicroBatch:
    groups = [n // rollouts.group_size for n in rows]
    prompts = [rollouts.prompts[group].token_ids for group in groups]
    left, left_mask = left_padded(prompts, pad)
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
        guided=None if rollouts.guided is None else rollouts.guided[index],
    )


@contextmanager
def memory_for(
    micro_batches: Sequence[MicroBatch],
    max_tokens: int,
    *,
    packed: bool,
    learns: bool,
    checkpointed: bool,
) -> Iterator[None]:
    """Turns an error of the block that says that memory ran out into one that names remedies.

    Args:
        micro_batches: Micro-batches that the block reads.
        max_tokens: Maximum number of tokens in a micro-batch.
        packed: Whether padding is left out.
        learns: Whether activations are kept for a backward pass.
        checkpointed: Whether that pass recomputes activations.

    Raises:
        ConfigError: If memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        masks = [micro_batch.mask for micro_batch in micro_batches]
        sizes = [int(mask.sum()) if packed else mask.numel() for mask in masks]
        num_tokens, num_rows = max(zip(sizes, map(len, masks), strict=True))
        further = "model.activation_checkpointing: true" if learns and not checkpointed else ""
        remedies = [f"Set it to {num_tokens // 2} or less", further, "or a smaller model.dtype"]
        fix = ", ".join(filter(None, remedies))
        if num_rows == 1:
            fix = (
                f"A single text has {num_tokens} tokens. Set {further}{', ' if further else ''}"
                "data.max_prompt_tokens or model.sampling.max_new_tokens lower, or use a smaller "
                "base or model.dtype"
            )
        raise ConfigError(
            "model.tokens_per_micro_batch",
            max_tokens,
            rule=f"memory ran out in an update with {num_tokens} tokens in its largest micro-batch",
            why="The activations of a micro-batch are kept for the backward pass"
            if learns
            else "A pass holds the stream and the attention of a whole micro-batch",
            fix=fix,
        ) from error
