"""Truncated importance weights, for a sampler whose probabilities differ from the trainer's."""

from __future__ import annotations

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class TruncatedImportance:
    """Weights tokens by their probability ratio between trainer and sampler, up to a cap.

    `c_{i,t} = min(pi_old(y_t) / pi_sampler(y_t), cap)`, without gradient. This is truncated
    importance sampling (Ionides 2008; for language models Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training", with cap 2). A sampler with other kernels
    or a quantised base draws from a distribution that is not quite that of the policy, and the
    weight corrects for the difference. The cap bounds the variance at the price of some bias.
    pi_old is the trainer's policy before the first optimizer step on the batch. If sampler and
    trainer agree (`mismatch/*` near 0), all weights are 1.

    Args:
        cap: Largest weight; at least 1.

    Raises:
        ConfigError: If the cap is less than 1, which would reduce the weight of tokens on which
            both agree.
    """

    def __init__(self, cap: float = 2.0) -> None:
        if not cap >= 1:
            raise ConfigError(
                "TruncatedImportance.cap",
                cap,
                rule="must be at least 1",
                why="Tokens on which sampler and trainer agree have weight 1",
            )
        self.cap = cap

    def factors(self, inputs: LossInputs) -> PerToken:
        """Returns factors (n, T) and `capped_share`, the share of tokens with weight `cap`."""
        gap = torch.where(inputs.mask, inputs.old_logprobs - inputs.sampling_logprobs, 0.0)
        weights = gap.exp()
        return weights.clamp(max=self.cap), {"capped_share": (weights > self.cap).float()}
