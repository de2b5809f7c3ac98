"""REINFORCE with a moving average of past rewards as the baseline."""

from __future__ import annotations

import torch
from torch import nn

from steer_lightning.advantages.scored import split_scored
from steer_lightning.errors import ConfigError


class MovingAverage(nn.Module):
    """Subtracts the moving average b of past rewards, over all prompts of a batch.

    `A_i = r_i - b`, then `b <- decay * b + (1 - decay) * mean(r)`. This is REINFORCE with a
    baseline (Williams 1992, "reinforcement comparison"). It is unbiased: b depends only on earlier
    batches, so the baseline of a completion does not depend on that completion. The estimator
    assumes prompts of similar difficulty, since they share one b, and works with any group size, 1
    included. The average is divided by `1 - decay^t` after t batches, to correct for its start at
    0; the first batch has b = 0. Unscored completions (NaN) are left out of the mean and have
    advantage 0. A batch without scores leaves b unchanged.

    Args:
        decay: Decay of the average; 0.9 averages over about 10 batches.

    Attributes:
        total: Average before that division, a scalar; saved in the checkpoint together with
            `weight`.
        weight: Divisor 1 - decay^t, a scalar; 0 before the first batch.

    Raises:
        ConfigError: If the decay is not at least 0 and below 1.
    """

    total: torch.Tensor
    weight: torch.Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError("model.advantage.decay", decay, rule="must be at least 0 and below 1")
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @property
    def baseline(self) -> float:
        """Baseline b, from the batches so far."""
        return float(self.total / self.weight) if self.weight > 0 else 0.0

    @torch.no_grad()
    def forward(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch, then updates the baseline with its mean reward.

        Args:
            rewards: Rewards (B, G), float, NaN where a completion could not be scored.

        Returns:
            The advantages (B, G), float, finite.
        """
        values, scored = split_scored(rewards)
        advantages = torch.where(scored, values - self.baseline, torch.zeros_like(values))
        if scored.any():
            mean = values.sum() / scored.sum()
            self.total.mul_(self.decay).add_((1 - self.decay) * mean.to(self.total))
            self.weight.mul_(self.decay).add_(1 - self.decay)
        return advantages
