"""VectorFit, which trains the singular values of a model's matrices and its biases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.weight_changes import WeightChanges


class VectorFit(WeightChanges):
    """Changes the singular values and biases of the linear layers in all decoder layers.

    With `W = U diag(s) V^T`, the changes are `s <- s + d` and `b <- b + d`. The method is that of
    arXiv 2503.19530, without the schedule that freezes some of the vectors for a while. U and V are
    kept in the dtype of the base and never change. The change is applied as `W <- W + U diag(d)
    V^T`, so that a change of zero leaves W unchanged to the bit. The decomposition is computed in
    the first pass, on the device of the base, which takes a while for large models.

    Args:
        init_from: File of the same kind to start from; null starts from zero.
        layers_path: Dotted path of the model's decoder layers; needed only if they are not found
            automatically.
    """

    def __init__(self, init_from: str | None = None, layers_path: str | None = None) -> None:
        super().__init__(init_from)
        self.layers_path = layers_path

    def chosen(self, model: nn.Module) -> Mapping[str, torch.Size]:
        """Returns the weights to change with their shapes; see `WeightChanges.chosen`."""
        prefix = next(
            name
            for name, module in model.named_modules()
            if module is find_layers(model, self.layers_path)
        )
        found = {}
        for name, weight in model.named_parameters():
            if not name.startswith(f"{prefix}."):
                continue
            if weight.dim() == 2:
                found[name] = torch.Size([min(weight.shape)])
            elif name.endswith(".bias"):
                found[name] = weight.shape
        if not found:
            raise ConfigError(
                "model.steering",
                type(self).__name__,
                rule=f"the layers of model.base, a {type(model).__name__}, have no matrices",
            )
        return found

    def prepared(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns `U` (m, k) and `V^T` (k, n) of a matrix, or nothing for a bias."""
        if weight.dim() != 2:
            return ()
        left, _, right = torch.linalg.svd(weight.float(), full_matrices=False)
        return left.to(weight.dtype), right.to(weight.dtype)

    def change(self, numbers: torch.Tensor, prepared: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Returns `U diag(d) V^T` for a matrix, or `d` for a bias."""
        if not prepared:
            return numbers
        left, right = prepared
        changed: torch.Tensor = (left * numbers.to(left.dtype)) @ right
        return changed

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"the changes of the singular values or biases of {len(self.names)} weights"
