"""The sum over a completion's tokens, divided by a constant."""

from __future__ import annotations

from steer_lightning.errors import ConfigError
from steer_lightning.types import LossInputs


class ConstantLength:
    """w_{i,t} = 1 / (N * length), the same length for all completions (Dr. GRPO, arXiv 2503.20783).

    `SequenceSum` by another name: the exact policy gradient, in the size of `SequenceMean`, so that
    learning rates and weights of other terms carry over.

    Args:
        length: Tokens; the authors take the most that a completion may have,
            `model.sampling.max_new_tokens`.

    Raises:
        ConfigError: If it is less than 1.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ConfigError("ConstantLength.length", length, rule="must be at least 1")
        self.length = length

    def weights(self, inputs: LossInputs) -> float:
        """The same for all tokens."""
        return 1 / (inputs.num_rows * self.length)
