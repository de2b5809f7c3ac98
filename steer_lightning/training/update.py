"""The update: what a batch of rollouts does to what is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.system.collectives import sum_gradients
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import (
    Backward,
    BatchGradient,
    MiniBatch,
    Totals,
    gather_totals,
)
from steer_lightning.training.step import Update

Clip = Callable[[list[torch.nn.Parameter]], torch.Tensor]
"""Clips gradients in place; returns the norm before, a scalar."""


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How often a batch of rollouts is used; by default for one optimizer step on policy.

    More than one needs a loss with a ratio, such as `PolicyGradient` with the objective `Clip`.

    Attributes:
        num_passes: How often all of the batch is gone through; PPO's epochs, GRPO's mu.
        num_mini_batches: Optimizer steps of a pass, each on its share of the prompts; must divide
            `data.batch_size`.
    """

    num_passes: int = 1
    num_mini_batches: int = 1

    def __post_init__(self) -> None:
        """Raises a ConfigError for a count below 1."""
        for key, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"model.updates.{key}", value, rule="must be at least 1")

    @property
    def num_steps(self) -> int:
        """Optimizer steps on each batch of rollouts."""
        return self.num_passes * self.num_mini_batches

    def split(self, batch: Batch, seed: int, step: int) -> list[torch.Tensor]:
        """Draws the mini-batches from (seed, step): which of the B prompts each is of.

        Prompts of which no completion takes part are left out.
        """
        prompts = batch.takes_part.any(1).nonzero().squeeze(1)
        if self.num_mini_batches > 1:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            prompts = prompts[torch.randperm(len(prompts), generator=generator)]
        return list(torch.tensor_split(prompts, self.num_mini_batches))


def learn(
    policy: Policy,
    batch: Batch,
    prompts: list[torch.Tensor],
    *,
    num_passes: int,
    gradient: BatchGradient,
    clip: Clip,
    take_step: Callable[[bool], None],
    backward: Backward,
    learning_rate: float,
) -> Update:
    """Takes the optimizer steps of a batch of rollouts.

    A step whose loss or gradient is not finite is skipped: neither vectors, optimizer nor clip take
    it in.

    Args:
        policy: Whose steering is trained.
        batch: Of all processes.
        prompts: Of each mini-batch, which of the B prompts it is of.
        num_passes: How often to go through all of them.
        gradient: What accumulates it.
        clip: Of the gradient.
        take_step: The optimizer's; told whether it is the last one of the batch.
        backward: Called with each micro-batch's loss.
        learning_rate: Of the optimizer.
    """
    streams = gradient.streams(policy)
    steps = [  # the first one meets the policy as it is, the others are measured before
        gradient.plan(policy, batch, chosen, num_reads=num_passes + (k > 0), streams=streams)
        for k, chosen in enumerate(prompts)
    ]
    for later in steps[1:]:
        gradient.measure(policy, later)
    last = num_passes * len(steps) - 1
    totals, norms = Totals(), []
    for number in range(last + 1):
        found, norm = _step(policy, steps[number % len(steps)], gradient, clip, backward)
        take_step(number == last)  # also when no group has signal: momentum goes on
        totals.join(found)
        norms.append(norm)
    taken = [norm for norm in norms if norm is not None]
    return Update(
        loss=totals.loss / len(norms),
        loss_metrics={name: value / len(norms) for name, value in totals.metrics.items()},
        mismatch=totals.mismatch,
        gradient_norm=sum(taken) / len(taken) if taken else float("nan"),
        skipped=len(taken) < len(norms),
        learning_rate=learning_rate,
    )


def _step(
    policy: Policy, step: MiniBatch, gradient: BatchGradient, clip: Clip, backward: Backward
) -> tuple[Totals, float | None]:
    """Leaves the clipped gradient of all processes in `.grad`, or None if it is to be skipped.

    Returns:
        What it did, and the norm before clipping, or None.
    """
    parameters = list(policy.steering.parameters())
    own = gradient.accumulate(policy, step, backward)
    gradients = [p.grad for p in parameters if p.grad is not None]
    sum_gradients(gradients)  # the one thing of any size that is ever sent
    totals = gather_totals(own, parameters)
    # a finite gradient may have an infinite norm, by which the clip would divide
    norm = torch.nn.utils.get_total_norm(gradients)
    if math.isfinite(totals.loss) and bool(norm.isfinite()):
        return totals, float(clip(parameters))
    policy.steering.zero_grad()  # the optimizer passes it by; the step counts all the same
    return totals, None
