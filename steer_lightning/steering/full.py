"""Full fine-tuning, the baseline that all others are measured by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from steer_lightning.steering.weight_changes import WeightChanges


class FullFinetune(WeightChanges):
    """W <- W + D for every weight of the model, tied ones once.

    D is in float32, as are its gradient and what the optimizer keeps of it. With weight decay an
    optimizer pulls W back to the base, not to zero.
    """

    def chosen(self, model: nn.Module) -> Mapping[str, torch.Size]:
        """See `WeightChanges.chosen`."""
        return {name: weight.shape for name, weight in model.named_parameters()}

    def describe(self) -> str:
        """See `Steering.describe`."""
        return f"the changes of all {len(self.names)} weights"
