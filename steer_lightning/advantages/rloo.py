"""RLOO: REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

import torch

from steer_lightning.advantages.scored import has_signal, split_scored


class RLOO:
    """Subtracts the mean reward b_i of the group's other completions.

    `A_i = r_i - b_i` with `b_i = sum_{j != i} r_j / (G - 1)`. The estimator is unbiased: the
    baseline of a completion does not depend on that completion (Ahmadian et al., arXiv 2402.14740;
    Kool et al. 2019). A group whose rewards are all equal has no signal: its advantages are 0.
    Unscored completions (NaN) are left out of the baseline and have advantage 0. If only one
    completion of a group is scored, it has no baseline, and its advantage is 0.
    """

    min_group_size = 2

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns the advantages of a batch.

        Args:
            rewards: Rewards (B, G), float, NaN where a completion could not be scored.

        Returns:
            The advantages (B, G), float, finite.
        """
        values, scored = split_scored(rewards)
        # number of other scored completions, for a scored one
        others = scored.sum(1, keepdim=True) - 1
        baseline = (values.sum(1, keepdim=True) - values) / others.clamp(min=1)
        takes_part = scored & has_signal(rewards)[:, None]
        return torch.where(takes_part, values - baseline, torch.zeros_like(values))
