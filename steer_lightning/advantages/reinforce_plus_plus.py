"""REINFORCE++: advantages normalised over the whole batch."""

from __future__ import annotations

import torch

from steer_lightning.advantages.scored import has_signal, split_scored

LEAST_DEVIATION = 1e-4
"""Smallest divisor: rewards that differ in the last bits alone, by rounding, carry no signal."""


class ReinforcePlusPlus:
    """Standardises rewards over all completions of all prompts (arXiv 2501.03262).

    `A_i = (r_i - mean(r)) / std(r)`. The authors combine it with a clipped ratio (`losses.Clip`)
    and with the KL to the base in the reward (`model.kl_in_reward`), which is counted here once per
    completion, not token by token. The estimator assumes prompts of similar difficulty: completions
    of easy prompts are above the mean and those of hard prompts below it, whatever they say, so the
    noise from the choice of prompts remains. It works with any group size, 1 included. With several
    processes, mean and deviation are taken over all of them. The standard deviation is that of the
    sample itself, and at least 1e-4, as in the authors' code. If all scored rewards are equal, the
    advantages are 0. Unscored completions (NaN) are left out and have advantage 0.
    """

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch.

        Args:
            rewards: Rewards (B, G) of all processes, float, NaN where a completion could not be
                scored.

        Returns:
            The advantages (B, G), float, finite.
        """
        values, scored = split_scored(rewards)
        if not has_signal(rewards.reshape(1, -1)):
            return torch.zeros_like(values)
        taken = values[scored]
        deviation = taken.std(correction=0).clamp(min=LEAST_DEVIATION)
        return torch.where(scored, (values - taken.mean()) / deviation, torch.zeros_like(values))
