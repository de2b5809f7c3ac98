"""Distance from the base model: estimators, and the term of the loss."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs

log = logging.getLogger(__name__)

KLEstimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From log pi(y_t) and log pi_ref(y_t) of sampled tokens to estimates of KL(pi || pi_ref)."""


def k1(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Log pi - log pi_ref: unbiased, negative for many tokens (Schulman 2020).

    "Approximating KL divergence", joschu.net/blog/kl-approx.html; k2 and k3 are from there, too.
    """
    return logprobs - reference


def k2(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(log pi - log pi_ref)^2 / 2: biased, never negative; its own gradient is that of KL."""
    return (logprobs - reference).square() / 2


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """pi_ref / pi - 1 - log (pi_ref / pi): unbiased, never negative; GRPO's."""
    return torch.expm1(reference - logprobs) - (reference - logprobs)


class KLToBase:
    """cost = weight * KL(pi || base), estimated on the sampled tokens.

    The base is the same model with the vectors off: no second copy, one more forward pass. What is
    differentiated is the estimate, whose gradient is not that of what it estimates: at each
    position it has the mean of the gradient of KL(pi || base) with `k2`, of KL(base || pi) with
    `k3`, and of 0 with `k1`, which only adds noise (its place is the reward: `model.kl_in_reward`).
    Assumes completions of the current policy: in later updates of a batch the estimate lags behind.
    While the vectors are 0, so are cost and gradient.

    Args:
        weight: Above 0; GRPO's authors take 0.04.
        estimator: `steer_lightning.losses.k1`, `k2` or `k3`, or a function of that form.

    Raises:
        ConfigError: If the weight is not above 0.
    """

    needs_reference = True

    def __init__(self, weight: float, estimator: KLEstimator = k3) -> None:
        check_kl_weight("model.loss.terms: KLToBase.weight", weight, "remove it from the terms")
        if estimator is k1:
            log.warning(
                "KLToBase.estimator = k1: in the loss its gradient has mean 0, and pulls nowhere. "
                "Take k2 or k3, or put it into the reward by model.kl_in_reward"
            )
        self.weight, self.estimator = weight, estimator

    def costs(self, inputs: LossInputs) -> PerToken:
        """(n, T); reports `kl`, nats a token."""
        assert inputs.reference_logprobs is not None  # asked for by `needs_reference`
        reference = torch.where(inputs.mask, inputs.reference_logprobs, 0.0)
        estimate = self.estimator(torch.where(inputs.mask, inputs.logprobs, 0.0), reference)
        return self.weight * estimate, {"kl": estimate.detach()}


def check_kl_weight(key: str, weight: float, fix: str) -> None:
    """Raises a ConfigError for a weight that does nothing, or drives the policy away."""
    if not 0 < weight < float("inf"):
        raise ConfigError(
            key,
            weight,
            rule="must be above 0",
            why="With 0 the base's log-probabilities would be computed for nothing; below 0 the "
            "policy would be driven away from it",
            fix=f"Set it above 0, or {fix}",
        )
