"""The aggregation of Dr. GRPO, which divides the sum over a completion's tokens by a constant."""

from __future__ import annotations

from steer_lightning.errors import ConfigError
from steer_lightning.types import LossInputs


class ConstantLength:
    """Divides by the same length for all completions (Dr. GRPO, arXiv 2503.20783).

    `w_{i,t} = 1 / (N * length)`. Up to the constant factor this is `SequenceSum`, and so the exact
    policy gradient. Its size is about that of `SequenceMean`, so that learning rates and weights of
    other terms carry over.

    Args:
        length: Number of tokens to divide by; the authors use the largest possible length,
            `model.sampling.max_new_tokens`.

    Raises:
        ConfigError: If the length is less than 1.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ConfigError("ConstantLength.length", length, rule="must be at least 1")
        self.length = length

    def weights(self, inputs: LossInputs) -> float:
        """Returns one weight for all tokens."""
        return 1 / (inputs.num_rows * self.length)
