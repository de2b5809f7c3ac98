"""The mean over the tokens of a batch."""

from __future__ import annotations

from steer_lightning.types import LossInputs


class TokenMean:
    """w_{i,t} = 1 / (tokens of the batch): each token counts the same (DAPO, arXiv 2503.14476).

    `SequenceSum` divided by the mean length of this batch's completions: the direction is the exact
    policy gradient's, while its size depends on how long the completions came out.
    """

    def weights(self, inputs: LossInputs) -> float:
        """The same for all tokens."""
        return 1 / inputs.num_tokens
