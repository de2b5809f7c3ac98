"""The clipped objective of GSPO, with one ratio for a whole completion."""

from __future__ import annotations

import torch

from steer_lightning.losses.base import PerToken
from steer_lightning.losses.clip import check_bounds, clipped
from steer_lightning.types import LossInputs


class SequenceClip:
    """Clips the probability ratio of a whole completion (GSPO, eq. 5 and 7 of arXiv 2507.18071).

    `gain = min(s * A, clip(s, 1 - low, 1 + high) * A)`, where `s = (pi(y) / pi_old(y))^(1 / |y|)`
    is the geometric mean of the tokens' ratios. A completion is clipped as a whole, because it is
    rewarded as a whole. Every token has the gain of its completion; with `SequenceMean` the loss is
    that of GSPO. `s` moves far less than the ratio of a single token, so its bounds are narrow.
    Like `Clip`, the objective assumes several optimizer steps per batch.

    Args:
        low: Distance of the lower bound from 1; above 0 and below 1. The default is the paper's.
        high: Distance of the upper bound from 1; above 0. The default is the paper's.

    Raises:
        ConfigError: If a bound is out of range.
    """

    uses_ratio = True

    def __init__(self, low: float = 3e-4, high: float = 4e-4) -> None:
        check_bounds("SequenceClip", low, high)
        self.low, self.high = low, high

    def gains(self, inputs: LossInputs) -> PerToken:
        """Returns gains (n, T) and `clip_share`, the share of tokens in clipped completions."""
        moved = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0)
        mean = moved.sum(1, keepdim=True) / inputs.lengths[:, None]
        return clipped(
            mean.expand_as(inputs.logprobs), inputs.advantages[:, None], self.low, self.high
        )
