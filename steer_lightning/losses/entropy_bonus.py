"""The entropy bonus, a loss term that rewards an undecided policy."""

from __future__ import annotations

import math

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class EntropyBonus:
    """Rewards the entropy of the policy, which keeps it from settling on one answer early.

    cost = - weight * H(pi(. | x, y_{<t})), the entropy in nats over the whole vocabulary at each
    sampled position, of the distribution that is sampled, temperature applied (Williams and Peng
    1991; A3C, arXiv 1602.01783). The entropy is exact at each position, but the gradient ignores
    that the positions depend on the policy, too, as is usual in the field. A negative weight makes
    the policy more decided.

    Args:
        weight: Factor of the entropy; any finite number other than 0.

    Raises:
        ConfigError: If the weight is 0 or not finite.
    """

    needs_entropy = True

    def __init__(self, weight: float) -> None:
        if weight == 0 or not math.isfinite(weight):
            raise ConfigError(
                "model.loss.terms: EntropyBonus.weight",
                weight,
                rule="must be a finite number other than 0",
                why="With 0 the entropy would be computed for nothing",
                fix="Set it to 0.001, say, or remove it from the terms",
            )
        self.weight = weight

    def costs(self, inputs: LossInputs) -> PerToken:
        """Returns costs (n, T) and `entropy`, in nats per token."""
        assert inputs.entropy is not None  # `needs_entropy` asks for it
        return -self.weight * inputs.entropy, {"entropy": inputs.entropy.detach()}
