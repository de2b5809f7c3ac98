"""REINFORCE without a baseline."""

from __future__ import annotations

import torch

from steer_lightning.advantages.scored import split_scored


class Reinforce:
    """Uses each reward as the advantage: `A_i = r_i` (Williams 1992).

    The estimator is unbiased, and the noisiest one. With rewards of 0 and 1 the right completions
    become likelier and the wrong ones have no effect, so the size of the gradient follows the pass
    rate. It works with any group size, 1 included. If all rewards are 0, nothing is learned. If all
    rewards equal another number, the advantages are not 0 although there is nothing to learn; their
    gradient has mean 0. Unscored completions (NaN) have advantage 0.

    Attributes:
        non_negative_from: Smallest reward from which on no advantage is negative.
    """

    non_negative_from = 0.0

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch.

        Args:
            rewards: Rewards (B, G), float, NaN where a completion could not be scored.

        Returns:
            The advantages (B, G), float, finite.
        """
        values, _ = split_scored(rewards)
        return values
