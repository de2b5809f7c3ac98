"""The KL to the base, subtracted from the reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steer_lightning.losses import KLEstimator, check_kl_weight, k1
from steer_lightning.system.collectives import gather_objects
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.step import Sampled


@dataclass(frozen=True, kw_only=True)
class KLInReward:
    """Subtracts the KL to the base from the rewards: `r_i - weight * sum_t KL(pi || base)`.

    The KL is estimated on the tokens of the completion. As in RLHF (arXiv 1909.08593, 2203.02155)
    and RLOO (arXiv 2402.14740), the advantage is computed from this difference. With `k1` the
    policy gradient of the difference is unbiased; `k2` and `k3` are never negative, but biased
    here. The base is the same model with the vectors off, so there is no second copy of the model.
    Policy and base both read the completions once more, in the same passes of the update:
    between the engine's log-probabilities and those of the base, differences of arithmetic would
    count as KL, and where all rewards are equal, an estimator that divides by the deviation would
    make full advantages of them. While the vectors are 0, the KL is exactly 0. The KL counts once
    per completion, not token by token, and unscored completions stay unscored. `reward/mean` and
    the other metrics of rewards do not include the KL; `reward/kl` is the KL.

    Attributes:
        weight: Weight of the KL, above 0; a reward of 1 balances `1 / weight` nats.
        estimator: Estimator of the KL: `steer_lightning.losses.k1`, `k2` or `k3`, or a function
            with the same arguments.
    """

    weight: float
    estimator: KLEstimator = k1

    def __post_init__(self) -> None:
        """Raises a ConfigError for a weight that is not above 0."""
        check_kl_weight(
            "model.kl_in_reward.weight",
            self.weight,
            "set model.kl_in_reward: null to subtract no KL",
        )

    def measure(self, gradient: BatchGradient, sampled: Sampled) -> torch.Tensor:
        """Computes the KL of each completion.

        Args:
            gradient: Object that reads completions with the policy and with the base.
            sampled: Completions of all processes.

        Returns:
            KL of the completions of all processes in nats, (B, G) float32.
        """
        rollouts = sampled.rollouts
        logprobs = gradient.logprobs_of(rollouts, of_base=False)
        reference = gradient.logprobs_of(rollouts, of_base=True)
        estimates = self.estimator(logprobs, reference) * rollouts.completion_mask
        share = estimates.sum(1).view(len(sampled.own), rollouts.group_size)
        found = torch.empty_like(sampled.rewards)
        for own, values in gather_objects((sampled.own, share)):
            found[own] = values
        return found
