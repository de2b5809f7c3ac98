"""The paper's aggregation: the sum over a completion's tokens, then the mean over completions."""

from __future__ import annotations

from steer_lightning.types import LossInputs


class SequenceSum:
    """Sums over the tokens of a completion and averages over completions (arXiv 2505.18706).

    w_{i,t} = 1 / N. The sum has the gradient of log pi(y | x), which makes it the exact policy
    gradient of the mean reward. A long completion has a long gradient.
    """

    def weights(self, inputs: LossInputs) -> float:
        """Returns one weight for all tokens."""
        return 1 / inputs.num_rows
