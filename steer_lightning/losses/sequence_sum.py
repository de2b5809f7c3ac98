"""The paper's aggregation."""

from __future__ import annotations

from steer_lightning.types import LossInputs


class SequenceSum:
    """w_{i,t} = 1 / N: tokens are summed over a completion, completions averaged.

    The gradient of log pi(y | x), and so the exact policy gradient of the mean reward
    (arXiv 2505.18706). A long completion has a long gradient.
    """

    def weights(self, inputs: LossInputs) -> float:
        """The same for all tokens."""
        return 1 / inputs.num_rows
