"""What a training step did, over all processes, for callbacks to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steer_lightning.rewards import Scores
from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A few numbers of each completion of a step's batch: B prompts, G completions each."""

    rewards: torch.Tensor
    """(B, G) float32, NaN where unscored."""
    parts: Mapping[str, torch.Tensor]
    """(B, G) float64 of each reward by name, NaN where unscored."""
    outcomes: Mapping[str, Mapping[str, int]]
    """Number of completions with each outcome, by reward."""
    num_tokens: torch.Tensor
    """(B, G) int64, tokens of each completion."""
    finished: torch.Tensor
    """(B, G) bool, True where it ended by itself."""
    logprob_sums: torch.Tensor
    """(B, G) float64, log-probability of each completion in nats."""
    rollout_seconds: float
    """Seconds of the rollout on the slowest process."""


@dataclass(frozen=True, kw_only=True)
class Sampled(Rows):
    """The completions of B prompts, with their rewards."""

    rollouts: Rollouts
    """Completions of this process: its share of the B prompts, see `own`."""
    scores: Scores
    """Scores of the same completions."""
    own: torch.Tensor
    """(b,) int64, which of the B prompts they are; all of them, if there is one process."""


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What the update did to the vectors by one optimizer step, or by several."""

    loss: float
    """Mean loss of the optimizer steps."""
    loss_metrics: Mapping[str, float]
    """Means over the optimizer steps of what the loss itself reports, by name."""
    mismatch: Mapping[str, float]
    """`mean` and `max` difference of the sampler's log-probabilities from the trainer's, before the
    first step, in nats; empty if no row had an advantage."""
    gradient_norm: float
    """Mean norm before clipping, in the units of the parameter; NaN if all steps were skipped."""
    skipped: bool
    """Whether an optimizer step was skipped, because its loss or gradient were not finite."""
    learning_rate: float
    """Learning rate of the optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class Step(Sampled):
    """The whole of a training step."""

    advantages: torch.Tensor
    """(B, G) float32."""
    takes_part: torch.Tensor
    """(B, G) bool, whether the update is of this completion, too."""
    kl: torch.Tensor | None
    """(B, G) float32, nats of each completion's KL to the base, where the reward takes it in."""
    update: UpdateResult
    """What the update did."""
    seconds: float
    """Seconds of the step on this process."""
