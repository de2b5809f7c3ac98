"""The KL divergence from the base model: its estimators, and the loss term."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs

log = logging.getLogger(__name__)

KLEstimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Function of log pi(y_t) and log pi_ref(y_t) of sampled tokens that estimates KL(pi || pi_ref)."""


def k1(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Returns `log pi - log pi_ref`: unbiased, but negative for many tokens.

    The estimators k1, k2 and k3 come from Schulman 2020, "Approximating KL divergence",
    joschu.net/blog/kl-approx.html.
    """
    return logprobs - reference


def k2(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Returns `(log pi - log pi_ref)^2 / 2`: biased, never negative, with the gradient of KL."""
    return (logprobs - reference).square() / 2


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Returns `pi_ref / pi - 1 - log(pi_ref / pi)`: unbiased and never negative; GRPO uses it."""
    return torch.expm1(reference - logprobs) - (reference - logprobs)


class KLToBase:
    """Penalises the KL divergence of the policy from the base, estimated on the sampled tokens.

    `cost = weight * KL(pi || base)`. The base is the same model with the vectors off, so there is
    no second copy of the model, but one more forward pass. The estimate is differentiated, and the
    gradient of an estimate is not that of the quantity it estimates. The mean gradient at each
    position is that of `KL(pi || base)` with `k2`, that of `KL(base || pi)` with `k3`, and 0 with
    `k1`, which only adds noise and belongs in the reward instead (`model.kl_in_reward`). The
    estimate assumes completions of the current policy; in later optimizer steps on a batch it lags
    behind. While the vectors are 0, cost and gradient are 0, too.

    Args:
        weight: Weight of the KL; above 0. The authors of GRPO use 0.04.
        estimator: Estimator of the KL: `steer_lightning.losses.k1`, `k2` or `k3`, or a function
            with the same arguments.

    Raises:
        ConfigError: If the weight is not above 0.
    """

    needs_reference = True

    def __init__(self, weight: float, estimator: KLEstimator = k3) -> None:
        check_kl_weight("model.loss.terms: KLToBase.weight", weight, "remove it from the terms")
        if estimator is k1:
            log.warning(
                "KLToBase.estimator = k1: in the loss, its gradient has mean 0 and only adds "
                "noise. Use k2 or k3, or put the KL into the reward with model.kl_in_reward"
            )
        self.weight, self.estimator = weight, estimator

    def costs(self, inputs: LossInputs) -> PerToken:
        """Returns costs (n, T) and `kl`, in nats per token."""
        assert inputs.reference_logprobs is not None  # `needs_reference` asks for them
        reference = torch.where(inputs.mask, inputs.reference_logprobs, 0.0)
        estimate = self.estimator(torch.where(inputs.mask, inputs.logprobs, 0.0), reference)
        return self.weight * estimate, {"kl": estimate.detach()}


def check_kl_weight(key: str, weight: float, fix: str) -> None:
    """Raises a ConfigError for a weight of 0 or below."""
    if not 0 < weight < float("inf"):
        raise ConfigError(
            key,
            weight,
            rule="must be above 0",
            why="With 0 the base's log-probabilities would be computed for nothing; below 0 the "
            "policy would be driven away from the base",
            fix=f"Set it above 0, or {fix}",
        )
