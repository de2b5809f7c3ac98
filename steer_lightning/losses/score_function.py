"""The objective of REINFORCE."""

from __future__ import annotations

from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class ScoreFunction:
    """gain_{i,t} = A_i * log pi(y_{i,t} | x, y_{i,<t}) (Williams 1992; arXiv 2505.18706).

    Its gradient is that of the expected reward on policy alone: right for the one update that a
    batch of rollouts serves for. For several of them `Clip` takes its place; where the policy has
    not moved yet, both have the same gradient.
    """

    uses_ratio = False

    def gains(self, inputs: LossInputs) -> PerToken:
        """(n, T)."""
        return inputs.advantages[:, None] * inputs.logprobs, {}
