"""The aggregation of GRPO: the mean over a completion's tokens, then over completions."""

from __future__ import annotations

import torch

from steer_lightning.types import LossInputs


class SequenceMean:
    """Lets each completion count the same (GRPO, arXiv 2402.03300).

    `w_{i,t} = 1 / (N * |y_i|)`. Tokens of long completions count less, so a long wrong completion
    is held back less than a short one (the length bias described in arXiv 2503.20783, which
    `ConstantLength` avoids).
    """

    def weights(self, inputs: LossInputs) -> torch.Tensor:
        """Returns one weight per completion, shape (n, 1)."""
        return 1 / (inputs.num_rows * inputs.lengths[:, None])
