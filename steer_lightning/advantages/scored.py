"""Helpers of all estimators, for rewards some of which are missing."""

from __future__ import annotations

import torch


def split_scored(rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Separates scored from missing rewards.

    Args:
        rewards: Rewards of any shape, NaN where unscored.

    Returns:
        The rewards, 0 where missing, and a bool mask that is True where scored.
    """
    scored = ~rewards.isnan()
    return torch.where(scored, rewards, torch.zeros_like(rewards)), scored


def has_signal(rewards: torch.Tensor) -> torch.Tensor:
    """Returns whether the scored rewards of each group differ, so that there is something to learn.

    Args:
        rewards: Rewards (B, G), NaN where unscored.

    Returns:
        Mask (B,) bool. It is exact, whereas `rewards - mean` may leave a rounding error instead of
        0.
    """
    gap = rewards.isnan()
    lowest = rewards.masked_fill(gap, float("inf")).amin(1)
    highest = rewards.masked_fill(gap, float("-inf")).amax(1)
    return lowest < highest
