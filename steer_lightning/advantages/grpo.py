"""Group-relative advantages, divided by the group's standard deviation."""

from __future__ import annotations

import torch

from steer_lightning.advantages.dr_grpo import DrGRPO
from steer_lightning.advantages.scored import split_scored

EPSILON = 1e-4
"""As in TRL: bounds the advantage in a group whose rewards hardly differ."""


class GRPO:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-4), over the group (arXiv 2402.03300).

    The standard deviation is the unbiased one, as in TRL. Assumes that groups of any difficulty
    should weigh the same: a prompt with one right answer in G counts as much as one with G / 2,
    which makes the gradient no longer that of the mean reward (arXiv 2503.20783 calls it a bias,
    and leaves it out: `DrGRPO`). A group whose scored rewards are all equal has advantages 0, as
    has one with a single scored completion; unscored ones (NaN) are left out of mean and deviation.
    """

    min_group_size = 2

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Advantages of a batch.

        Args:
            rewards: (B, G) float, NaN where a completion could not be scored.

        Returns:
            (B, G) float, finite.
        """
        centred = DrGRPO()(rewards)  # 0 where unscored
        _, scored = split_scored(rewards)
        others = (scored.sum(1, keepdim=True) - 1).clamp(min=1)
        deviation = (centred.square().sum(1, keepdim=True) / others).sqrt()
        return centred / (deviation + EPSILON)
