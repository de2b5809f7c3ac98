"""The objective of REINFORCE."""

from __future__ import annotations

from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class ScoreFunction:
    """Weighs log-probabilities by the advantage (Williams 1992; arXiv 2505.18706).

    gain_{i,t} = A_i * log pi(y_{i,t} | x, y_{i,<t}). Its gradient is that of the expected reward
    only on policy: it is correct if a batch of rollouts serves for one update. For several updates
    `Clip` takes its place; while the policy has not moved yet, both have the same gradient.
    """

    uses_ratio = False

    def gains(self, inputs: LossInputs) -> PerToken:
        """Returns gains (n, T), with nothing to report."""
        return inputs.advantages[:, None] * inputs.logprobs, {}
