"""The aggregation of DAPO: the mean over all tokens of a batch."""

from __future__ import annotations

from steer_lightning.types import LossInputs


class TokenMean:
    """Gives each token of a batch the same weight (DAPO, arXiv 2503.14476).

    `w_{i,t} = 1 / (tokens of the batch)`. This is `SequenceSum` divided by the mean length of the
    completions in the batch. The direction is that of the exact policy gradient; the size depends
    on the lengths of the completions.
    """

    def weights(self, inputs: LossInputs) -> float:
        """Returns one weight for all tokens."""
        return 1 / inputs.num_tokens
