"""The results of a training step, over all processes, for callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from steer_lightning.rewards import Scores
from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class CompletionFigures:
    """A few numbers for each completion of a step: B prompts with G completions each."""

    rewards: torch.Tensor
    """Weighted sums of the rewards, (B, G) float32, NaN where unscored. Where a guided completion
    has taken the place of another one, this is the reward of the other one, and so of the policy
    without hint."""
    learned_rewards: torch.Tensor
    """Rewards from which the advantages are computed, (B, G) float32, NaN where unscored: those of
    guided completions, and `rewards` elsewhere."""
    guided: torch.Tensor
    """Whether each completion was sampled with a hint, (B, G) bool; see `Guidance`."""
    parts: Mapping[str, torch.Tensor]
    """Scores of each reward by its name, before its weight, (B, G) float64, NaN where unscored.
    Their weighted sums are `rewards`."""
    outcomes: Mapping[str, Mapping[str, int]]
    """Number of completions with each outcome, by reward, of those behind `rewards`."""
    num_tokens: torch.Tensor
    """Number of tokens of each completion, (B, G) int64."""
    finished: torch.Tensor
    """Whether the model ended each completion itself, (B, G) bool."""
    logprob_sums: torch.Tensor
    """Log-probability of each completion in nats, (B, G) float64."""
    longest: int
    """Number of tokens of the longest text, prompt included."""
    rollout_seconds: float
    """Duration of the rollout on the slowest process, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Sampled(CompletionFigures):
    """The completions of B prompts, with their rewards."""

    rollouts: Rollouts
    """Completions of this process, for its share of the B prompts; see `own`."""
    scores: Scores
    """Scores of the same completions."""
    own: torch.Tensor
    """Indices of the prompts of this process among the B prompts, (b,) int64; all of them with one
    process."""


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """The result of an update of the vectors, in one or several optimizer steps."""

    loss: float
    """Mean loss of the optimizer steps."""
    loss_metrics: Mapping[str, float]
    """Metrics of the loss, as means over the optimizer steps, by name."""
    mismatch: Mapping[str, float]
    """Difference between the log-probabilities of sampler and trainer before the first step, in
    nats, as `mean` and `max` over tokens; empty if no row had an advantage."""
    gradient_norm: float
    """Mean norm before clipping, in the units of the parameter; NaN if all steps were skipped."""
    skipped: bool
    """Whether an optimizer step was skipped because its loss or gradient was not finite."""
    learning_rate: float
    """Learning rate of the optimizer steps."""
    guidance: Mapping[str, float] = field(default_factory=dict)
    """Ratio of guided tokens, as `ratio` and `kl`; see `Totals.guidance`. Empty if the update
    learned from no guided completion."""


@dataclass(frozen=True, kw_only=True)
class Step(Sampled):
    """A whole training step: its completions, their advantages, and the update."""

    advantages: torch.Tensor
    """Advantages of the completions, (B, G) float32."""
    takes_part: torch.Tensor
    """Whether the update learns from each completion, (B, G) bool."""
    kl: torch.Tensor | None
    """KL of each completion to the base in nats, (B, G) float32; None unless it is part of the
    reward."""
    update: UpdateResult
    """Result of the update."""
    seconds: float
    """Duration of the step on this process, in seconds."""
