"""Full fine-tuning, the baseline for all other kinds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from steer_lightning.steering.weight_changes import WeightChanges


class FullFinetune(WeightChanges):
    """Changes every weight of the model by `W <- W + D`; tied weights are changed once.

    D, its gradient and its optimizer state are in float32. Weight decay pulls W back to the base,
    not to zero.
    """

    def chosen(self, model: nn.Module) -> Mapping[str, torch.Size]:
        """Returns all weights with their shapes; see `WeightChanges.chosen`."""
        return {name: weight.shape for name, weight in model.named_parameters()}

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"the changes of all {len(self.names)} weights"
