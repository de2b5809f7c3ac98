"""MaxRL: advantages that are divided by the group's mean reward, for the likelihood of success."""

from __future__ import annotations

import torch

from steer_lightning.advantages.dr_grpo import DrGRPO
from steer_lightning.advantages.scored import split_scored
from steer_lightning.errors import ConfigError


class MaxRL:
    """Centres each reward on its group's mean and divides by that mean (MaxRL, arXiv 2602.02710).

    `A_i = (r_i - mean(r)) / mean(r)`. With p the chance that a completion is right, the mean reward
    has the gradient of p. MaxRL has that of `log p = - sum_{k >= 1} (1 - p)^k / k`, cut off after
    finitely many terms; (1 - p)^k is fail@k, the chance that k samples all fail. For a group of n
    completions the expected gradient is exactly that of the first n - 1 terms:

    `E[mean_i A_i * grad log pi(y_i)] = sum_{k=1}^{n-1} (1 - p)^(k-1) * grad p`.

    So a prompt with one right answer among many has much weight, which grows with n towards 1 / p;
    with n = 2 the gradient is that of the mean reward. The estimator assumes rewards of 0 and 1: a
    completion is right or wrong. Other rewards of at least 0 are weighted by the same formula,
    without that meaning; negative rewards are refused, since a mean of 0 or below has no inverse. A
    group whose scored rewards are all equal has advantage 0, in particular one without a right
    completion, whose mean is 0. Unscored completions (NaN) are left out and have advantage 0.

    Attributes:
        min_reward: Smallest reward for which the estimator is defined.
    """

    min_group_size = 2
    min_reward = 0.0

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch.

        Args:
            rewards: Rewards (B, G), float, at least 0, NaN where a completion could not be scored.

        Returns:
            The advantages (B, G), float, finite.

        Raises:
            ConfigError: If a reward is negative.
        """
        values, scored = split_scored(rewards)
        if (values < self.min_reward).any():
            raise ConfigError(
                "model.rewards",
                float(values.min()),
                rule="must not be negative with model.advantage = MaxRL",
                why="MaxRL divides by the mean reward, which is the share of right completions",
                fix="Use rewards of 0 and 1, or the advantage RLOO",
            )
        centred = DrGRPO()(rewards)  # 0 where unscored, and in groups without signal
        mean = values.sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp(min=1)
        return torch.where(centred == 0, centred, centred / mean)
