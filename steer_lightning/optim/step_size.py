"""The size of an optimizer step: the clip of the gradient, and the schedule of the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from steer_lightning.errors import ConfigError


class NormClip(nn.Module):
    """Scales the gradient down to a fixed norm; the paper clips at 2.0.

    Args:
        max_norm: Largest norm of the gradient; above 0.
    """

    def __init__(self, max_norm: float = 2.0) -> None:
        super().__init__()
        if not max_norm > 0:
            raise ConfigError("model.gradient_clip.max_norm", max_norm, rule="must be above 0")
        self.max_norm = max_norm

    def forward(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        """Clips the gradients in place and returns their norm before the clip, a scalar."""
        return nn.utils.clip_grad_norm_(parameters, self.max_norm)


class RunningNormClip(nn.Module):
    """Scales the gradient down to its own running norm, so that no single batch outweighs others.

    With summed log-probabilities a few rare tokens can make the gradient of one batch many times as
    long as that of the next, and no fixed bound fits all models. The bound here is an exponential
    average of past norms, each counted as at most `tail` times the average, so that an outlier
    can't raise the bound by itself. The first batches define the bound.

    Args:
        decay: Decay of the average; 0.9 averages over about 10 steps.
        tail: Largest factor by which one norm may exceed the average; at least 1.
    """

    running: torch.Tensor

    def __init__(self, decay: float = 0.9, tail: float = 3.0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(
                "model.gradient_clip.decay", decay, rule="must be at least 0 and below 1"
            )
        if not tail >= 1:
            raise ConfigError("model.gradient_clip.tail", tail, rule="must be at least 1")
        self.decay, self.tail = decay, tail
        self.register_buffer("running", torch.zeros(()))  # 0: no norm seen yet

    @torch.no_grad()
    def forward(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        """Clips the gradients in place and returns their norm before the clip, a scalar."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if norm > 0:  # a batch without signal says nothing about the typical norm
            if self.running == 0:
                self.running.copy_(norm)
            capped = torch.minimum(norm, self.tail * self.running)
            self.running.mul_(self.decay).add_((1 - self.decay) * capped)
            for gradient in gradients:
                gradient.mul_((self.running / norm).clamp(max=1.0))
        return norm


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Schedule of the learning rate: a warm-up, then a constant rate or a cosine down to 0.

    Attributes:
        kind: Shape of the schedule after the warm-up.
        warmup: Share of the run's steps during which the rate rises from 0; 0.03 in the paper.
    """

    kind: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.03

    def __post_init__(self) -> None:
        """Raises a ConfigError if the warm-up is out of range."""
        if not 0 <= self.warmup < 1:
            raise ConfigError(
                "model.schedule.warmup",
                self.warmup,
                rule="must be a share of the run, at least 0 and below 1",
            )

    def build(
        self, optimizer: torch.optim.Optimizer, num_steps: int
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Makes the scheduler for a run of `num_steps` optimizer steps."""
        warmup = round(self.warmup * num_steps)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup  # not 0 first: its rollouts would be wasted
            if self.kind == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
