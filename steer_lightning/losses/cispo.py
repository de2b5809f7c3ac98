"""The objective of CISPO, which bounds the weight of a token instead of leaving the token out."""

from __future__ import annotations

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class CISPO:
    """Weights log-probabilities by a bounded ratio without gradient (MiniMax-M1, arXiv 2506.13585).

    `gain = sg(clip(rho, 1 - low, 1 + high)) * A * log pi(y_t)`, where rho = pi(y_t) / pi_old(y_t),
    pi_old is the policy before the first optimizer step on this batch, and sg stops the gradient.
    `Clip` gives no gradient to a token whose ratio has left the bounds, and the authors find that
    these are often the rare tokens at which reasoning turns. Here every token keeps its gradient,
    and only its weight is bounded. They use it with `TokenMean` and group-relative advantages, and
    set no lower bound. The objective assumes several optimizer steps per batch: in the first one
    rho = 1, and the gradient is that of `ScoreFunction`. A bounded weight is a biased one, so the
    policy must stay close to pi_old.

    Args:
        low: Distance of the lower bound from 1; above 0 and at most 1. 1 sets no lower bound, since
            no ratio is below 0.
        high: Distance of the upper bound from 1; above 0. With the default, weights are at most 2,
            as with `TruncatedImportance`.

    Raises:
        ConfigError: If a bound is out of range.
    """

    uses_ratio = True

    def __init__(self, low: float = 1.0, high: float = 1.0) -> None:
        if not 0 < low <= 1:
            raise ConfigError("CISPO.low", low, rule="must be above 0 and at most 1")
        if not 0 < high < float("inf"):
            raise ConfigError("CISPO.high", high, rule="must be above 0 and finite")
        self.low, self.high = low, high

    def gains(self, inputs: LossInputs) -> PerToken:
        """Returns gains (n, T) and `clip_share`, the share of tokens whose weight is bounded."""
        moved = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0)
        ratio = moved.detach().exp()
        weights = ratio.clamp(1 - self.low, 1 + self.high)
        gains = weights * inputs.advantages[:, None] * inputs.logprobs
        return gains, {"clip_share": (weights != ratio).float()}
