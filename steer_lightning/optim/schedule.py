"""The schedule of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from steer_lightning.errors import ConfigError


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
                return (
                    step + 1
                ) / warmup  # not 0 at the first step, whose rollouts would be wasted
            if self.kind == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
