"""The aggregation of GRPO: the mean over a completion's tokens, then over completions."""

from __future__ import annotations

import torch

from steer_lightning.types import LossInputs


class SequenceMean:
    """Gives each completion the same weight (GRPO, arXiv 2402.03300).

    `w_{i,t} = 1 / (N * |y_i|)`. Tokens of long completions count less, so a long wrong completion
    is penalised less per token than a short one. This is the length bias described in arXiv
    2503.20783; `ConstantLength` avoids it.
    """

    def weights(self, inputs: LossInputs) -> torch.Tensor:
        """Returns one weight per completion, shape (n, 1)."""
        return 1 / (inputs.num_rows * inputs.lengths[:, None])
