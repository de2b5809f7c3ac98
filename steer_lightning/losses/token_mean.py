"""The aggregation of DAPO: the mean over all tokens of a batch."""

from __future__ import annotations

from steer_lightning.types import LossInputs


class TokenMean:
    """Lets each token of a batch count the same (DAPO, arXiv 2503.14476).

    w_{i,t} = 1 / (tokens of the batch). This is `SequenceSum` divided by the mean length of the
    batch's completions: the direction is that of the exact policy gradient, while the size depends
    on how long the completions turned out.
    """

    def weights(self, inputs: LossInputs) -> float:
        """Returns one weight for all tokens."""
        return 1 / inputs.num_tokens
