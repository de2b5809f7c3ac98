"""The carriers of an update: the batch of a step, and its parts that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

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
    float32; None until they are known."""
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
