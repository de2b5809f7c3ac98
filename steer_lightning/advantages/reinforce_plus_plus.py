"""Advantages normalised over the whole batch."""

from __future__ import annotations

import torch

from steer_lightning.advantages.scored import has_signal, split_scored


class ReinforcePlusPlus:
    """A_i = (r_i - mean(r)) / std(r), over all completions of all prompts (arXiv 2501.03262).

    REINFORCE++ as its authors run it has a clipped ratio (`losses.Clip`) and the KL to the base in
    the reward (`model.kl_in_reward`), which here counts once for a completion, not token by token.
    Assumes prompts of similar difficulty: the easy ones' completions are above the mean whatever
    they are, the hard ones' below, so that the noise of the draw of prompts stays in. Serves any
    group size, 1 included. Under several processes mean and deviation are of all processes. The
    standard deviation is that of the sample itself, as in the authors' code. With all scored
    rewards equal the advantages are 0; unscored completions (NaN) are left out and have 0.
    """

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Advantages of a batch.

        Args:
            rewards: (B, G) float, of all processes, NaN where a completion could not be scored.

        Returns:
            (B, G) float, finite.
        """
        values, scored = split_scored(rewards)
        if not has_signal(rewards.reshape(1, -1)):
            return torch.zeros_like(values)
        taken = values[scored]
        deviation = taken.std(correction=0)
        return torch.where(scored, (values - taken.mean()) / deviation, torch.zeros_like(values))
