"""What all estimators need: rewards of which some are missing."""

from __future__ import annotations

import torch


def split_scored(rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tells rewards from gaps.

    Args:
        rewards: Of any shape, NaN where unscored.

    Returns:
        The rewards with 0 in the gaps, and a bool mask, True where scored.
    """
    scored = ~rewards.isnan()
    return torch.where(scored, rewards, torch.zeros_like(rewards)), scored


def has_signal(rewards: torch.Tensor) -> torch.Tensor:
    """Whether a group tells better completions from worse ones: its scored rewards differ.

    Args:
        rewards: (B, G), NaN where unscored.

    Returns:
        (B,) bool. Exact, where `rewards - mean` may leave a rounding error instead of 0.
    """
    gap = rewards.isnan()
    lowest = rewards.masked_fill(gap, float("inf")).amin(1)
    highest = rewards.masked_fill(gap, float("-inf")).amax(1)
    return lowest < highest
