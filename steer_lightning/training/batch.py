"""What an update learns from: the batch of a step, and the parts that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.training.skipped_layers import KeptStream
from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What an update learns from: B prompts, some of which are this process's."""

    rollouts: Rollouts
    """Completions of this process: b prompts."""
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
        """Returns the batch of a run with one process.

        Args:
            rollouts: Completions of B prompts.
            advantages: Advantage of each completion, (B, G).
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

    Prompts are padded on the left, completions on the right.
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
    """A micro-batch on its way through the optimizer steps of a batch, each of which reads it."""

    micro_batch: MicroBatch
    prepared: Any
    """The rows as `Forward.prepare` returned them, ready to be read."""
    stream: KeptStream | None = None
    """What enters the first steered layer, kept between passes; None where nothing is skipped."""
    is_idle: bool = False
    """Whether its rows count for nothing: read because other processes still read something."""
    old_logprobs: torch.Tensor | None = None
    """(n, T) float32, of the policy before the first update of the batch."""
    reference_logprobs: torch.Tensor | None = None
    """(n, T) float32, of the base with the vectors off."""


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """What one optimizer step learns from: this process's share of it."""

    advantages: torch.Tensor
    """(N,) float32, of all rows of this process's rollouts."""
    parts: list[Part]
    """As many in each process that shares the base: each pass gathers weights."""
    num_rows: int
    """Completions of the step, of all processes."""
    num_tokens: int
    """Tokens of these completions."""
