"""The entropy bonus, a loss term that rewards an undecided policy."""

from __future__ import annotations

import math

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class EntropyBonus:
    """Rewards the entropy of the policy, which keeps the policy from settling on one answer early.

    `cost = - weight * H(pi(. | x, y_{<t}))`, where H is the entropy in nats, over the whole
    vocabulary, of the sampled distribution (with temperature) at each sampled position (Williams
    and Peng 1991; A3C, arXiv 1602.01783). The entropy at each position is exact. As usual, the
    gradient ignores that the positions themselves depend on the policy. A negative weight makes the
    policy more certain.

    Args:
        weight: Weight of the entropy; any finite number except 0.

    Raises:
        ConfigError: If the weight is 0 or not finite.
    """

    needs_entropy = True

    def __init__(self, weight: float) -> None:
        if weight == 0 or not math.isfinite(weight):
            raise ConfigError(
                "model.loss.terms: EntropyBonus.weight",
                weight,
                rule="must be a finite number except 0",
                why="With weight 0 the entropy would be computed for nothing",
                fix="Set it to 0.001, for example, or remove EntropyBonus from the terms",
            )
        self.weight = weight

    def costs(self, inputs: LossInputs) -> PerToken:
        """Returns costs (n, T) and `entropy`, in nats per token."""
        assert inputs.entropy is not None  # `needs_entropy` asks for it
        return -self.weight * inputs.entropy, {"entropy": inputs.entropy.detach()}
