"""Dr. GRPO: group-relative advantages that are not divided by the standard deviation."""

from __future__ import annotations

import torch

from steer_lightning.advantages.scored import has_signal, split_scored


class DrGRPO:
    """Subtracts the mean reward of the group ("GRPO done right", arXiv 2503.20783).

    `A_i = r_i - mean(r)`. The mean includes `r_i` itself, so this is `RLOO` times `(n - 1) / n` for
    n scored completions: unbiased up to that factor. The estimator assumes that the rewards of all
    prompts have the same scale, as those of a verifier do. The advantages are 0 in a group whose
    scored rewards are all equal, and in a group with a single scored completion. Unscored
    completions (NaN) are left out of the mean and have advantage 0.
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
        mean = values.sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp(min=1)
        takes_part = scored & has_signal(rewards)[:, None]
        return torch.where(takes_part, values - mean, torch.zeros_like(values))
