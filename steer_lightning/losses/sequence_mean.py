"""The mean over a completion's tokens, then over completions."""

from __future__ import annotations

import torch

from steer_lightning.types import LossInputs


class SequenceMean:
    """w_{i,t} = 1 / (N * |y_i|): each completion counts the same (GRPO, arXiv 2402.03300).

    Tokens of long completions count less: a long wrong one is held back less than a short wrong one
    (the length bias of arXiv 2503.20783, which `ConstantLength` leaves out).
    """

    def weights(self, inputs: LossInputs) -> torch.Tensor:
        """(n, 1)."""
        return 1 / (inputs.num_rows * inputs.lengths[:, None])
