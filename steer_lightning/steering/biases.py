"""BitFit, which trains the existing biases of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.weight_changes import WeightChanges


class BitFit(WeightChanges):
    """Changes each bias of the model by `b <- b + d` (arXiv 2106.10199).

    Qwen2 has biases in the query, key and value projections; Llama and Gemma have none.
    """

    needs_weights = False

    def chosen(self, model: nn.Module) -> Mapping[str, torch.Size]:
        """Returns the biases with their shapes; see `WeightChanges.chosen`."""
        found = {
            name: weight.shape
            for name, weight in model.named_parameters()
            if name.endswith(".bias")
        }
        if not found:
            raise ConfigError(
                "model.steering",
                type(self).__name__,
                rule=f"model.base, a {type(model).__name__}, has no biases to train",
                fix="Use steer_lightning.SteeringVectors, which act like new biases",
            )
        return found

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"the changes of {len(self.names)} biases"
