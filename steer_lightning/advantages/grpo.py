"""GRPO: group-relative advantages, divided by the group's standard deviation."""

from __future__ import annotations

import torch

from steer_lightning.advantages.dr_grpo import DrGRPO
from steer_lightning.advantages.scored import split_scored

EPSILON = 1e-4
"""Number added to the standard deviation, as in TRL: it bounds advantages if rewards hardly
differ."""


class GRPO:
    """Standardises each reward within its group (arXiv 2402.03300).

    `A_i = (r_i - mean(r)) / (std(r) + 1e-4)`. The standard deviation is the unbiased one, as in
    TRL. The estimator assumes that groups of any difficulty should have the same weight: a prompt
    with one right answer among G counts as much as one with G / 2. So the gradient is no longer
    that of the mean reward. arXiv 2503.20783 calls this a bias, which `DrGRPO` avoids. The
    advantages are 0 in a group whose scored rewards are all equal, and in a group with a single
    scored completion. Unscored completions (NaN) are left out of mean and deviation, and have
    advantage 0.
    """

    min_group_size = 2

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch.

        Args:
            rewards: Rewards (B, G), float, NaN where a completion could not be scored.

        Returns:
            The advantages (B, G), float, finite.
        """
        centred = DrGRPO()(rewards)  # 0 where unscored
        _, scored = split_scored(rewards)
        others = (scored.sum(1, keepdim=True) - 1).clamp(min=1)
        squares = centred.double().square()  # in float32 the square of 1e20 is infinite
        deviation = (squares.sum(1, keepdim=True) / others).sqrt()
        return (centred / (deviation + EPSILON)).to(centred.dtype)
