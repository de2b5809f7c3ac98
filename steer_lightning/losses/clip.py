"""The clipped objective of PPO, with separate bounds above and below."""

from __future__ import annotations

import math

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class Clip:
    """Clips the probability ratio of each token (PPO, eq. 7 of arXiv 1707.06347).

    gain = min(rho * A, clip(rho, 1 - low, 1 + high) * A), where rho = pi(y_t) / pi_old(y_t) and
    pi_old is the policy before the first optimizer step on this batch. Once the ratio rho of a
    token has left the bounds in the direction of A, the token has no gradient. With `high` above
    `low` this is DAPO's clip-higher (eq. 8 of arXiv 2503.14476: 0.2 and 0.28), which leaves rare
    tokens room to become likely. The objective assumes several optimizer steps per batch: in the
    first step rho = 1, nothing is clipped, and the gradient is that of `ScoreFunction`. For guided
    completions pi_old has read a hint (`Guidance`), and their rho is not 1 in any step. For A < 0
    the gain rho * A has no bound, since the minimum takes the larger rho. `CISPO` bounds it.

    Args:
        low: Distance of the lower bound from 1; above 0 and below 1.
        high: Distance of the upper bound from 1; above 0.

    Raises:
        ConfigError: If a bound is out of range.
    """

    uses_ratio = True

    def __init__(self, low: float = 0.2, high: float = 0.2) -> None:
        check_bounds("Clip", low, high)
        self.low, self.high = low, high

    def gains(self, inputs: LossInputs) -> PerToken:
        """Returns gains (n, T) and `clip_share`, the share of tokens that are clipped."""
        moved = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0)
        return clipped(moved, inputs.advantages[:, None], self.low, self.high)


def clipped(log_ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> PerToken:
    """Returns the clipped objective of `exp(log_ratio)`, which broadcasts with the advantages."""
    # The minimum gives gradient 0 to a ratio above the bound, but 0 times that of an infinite exp
    # is NaN. A ratio of 2 (1 + high) is above the bound as well. For A < 0 there is no bound.
    largest = torch.where(advantages >= 0, math.log(2 * (1 + high)), torch.inf)
    ratio = torch.minimum(log_ratio, largest).exp()
    bounded = ratio.clamp(1 - low, 1 + high)
    gains = torch.minimum(ratio * advantages, bounded * advantages)
    beyond = (ratio > 1 + high) & (advantages > 0) | (ratio < 1 - low) & (advantages < 0)
    return gains, {"clip_share": beyond.float()}


def check_bounds(name: str, low: float, high: float) -> None:
    """Raises a ConfigError if a bound is out of range."""
    if not 0 < low < 1:
        raise ConfigError(f"{name}.low", low, rule="must be above 0 and below 1")
    if not 0 < high < float("inf"):
        raise ConfigError(f"{name}.high", high, rule="must be above 0 and finite")
