"""REINFORCE without a baseline."""

from __future__ import annotations

import torch

from steer_lightning.advantages.scored import split_scored


class Reinforce:
    """Takes each reward as the advantage: A_i = r_i (Williams 1992).

    The estimator is unbiased, and the noisiest one: with rewards of 0 and 1 the right completions
    are made likelier and the wrong ones teach nothing, so the length of the gradient follows the
    pass rate. It serves any group size, 1 included. With all rewards 0 nothing is learned; with all
    rewards equal to another number the advantages are not 0, though there is nothing to learn:
    their gradient has mean 0. Unscored completions (NaN) have advantage 0.
    """

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch.

        Args:
            rewards: Rewards (B, G), float, NaN where a completion could not be scored.

        Returns:
            The advantages (B, G), float, finite.
        """
        values, _ = split_scored(rewards)
        return values
