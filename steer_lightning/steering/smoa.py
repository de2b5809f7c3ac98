"""SMoA, whose changes have a high rank although few numbers are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from steer_lightning.errors import ConfigError
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.result_file import refusal
from steer_lightning.steering.weight_changes import WeightChanges
from steer_lightning.system.printable import one_line


class SMoA(WeightChanges):
    """Multiplies parts of each weight, number by number, by products of low rank.

    `W <- W + sum_k W_k * (B_k A_k)` with the elementwise product `*`, for the matrices of all
    decoder layers, after arXiv 2601.07507; that the frozen factor is the part W_k itself, singular
    values included, is this package's reading. The parts are `W_k = U_k diag(s_k) V_k^T`: the
    singular values of W = U diag(s) V^T are cut into K runs, each with a K-th of their sum, the
    largest first. The trained B_k (m, r) and A_k (r, n) are those of LoRA: A_k starts with random
    numbers, B_k at zero. `K r (m + n)` numbers are trained for a weight (m, n). The change of part
    k may have r times the rank of W_k, where that of LoRA has rank r.

    A run that would be empty, because a single singular value is more than its share, does nothing.
    The decomposition is computed in the first pass, on the device of the base, which takes a while
    for large models, and the parts are kept: K copies of each matrix in the dtype of the base.
    A step needs as much in float32 for one matrix at a time, in the forward and the backward pass.

    Args:
        rank: Rank r of each product.
        parts: Number K of parts.
        init_from: File of the same kind to start from; null starts from zero.
        layers_path: Dotted path of the model's decoder layers; needed only if they are not found
            automatically.
    """

    def __init__(
        self,
        rank: int = 4,
        parts: int = 2,
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__(init_from)
        for key, value in (("rank", rank), ("parts", parts)):
            if value < 1:
                raise ConfigError(f"model.steering.{key}", value, rule="must be at least 1")
        self.rank, self.parts, self.layers_path = rank, parts, layers_path

    def chosen(self, model: nn.Module) -> Mapping[str, torch.Size]:
        """Returns the matrices with the shapes (K, r, m + n) of their trained numbers."""
        blocks = find_layers(model, self.layers_path)
        inside = {id(weight) for weight in blocks.parameters() if weight.dim() == 2}
        found = {name: w.shape for name, w in model.named_parameters() if id(w) in inside}
        if not found:
            raise ConfigError(
                "model.steering",
                type(self).__name__,
                rule=f"the layers of model.base, a {type(model).__name__}, have no matrices",
            )
        least = min(min(shape) for shape in found.values())
        parts, rank = self.changes[0].shape[:2] if self.names else (self.parts, self.rank)
        for key, value in (("rank", rank), ("parts", parts)):
            if value > least:
                rule = f"must be at most {least}, the smallest side of a matrix"
                raise ConfigError(f"model.steering.{key}", value, rule=rule)
        return {name: torch.Size([parts, rank, sum(shape)]) for name, shape in found.items()}

    def load(self, path: Path) -> None:
        """Sets the numbers from a file; see `WeightChanges.load`."""
        super().load(path)
        like = tuple(self.changes[0].shape[:2])
        for name, numbers in zip(self.names, self.changes, strict=True):
            if numbers.dim() != 3 or tuple(numbers.shape[:2]) != like or not numbers.numel():
                raise refusal(
                    path,
                    "must have tensors (parts, rank, outputs + inputs) with the same parts and "
                    f"rank, but {one_line(name)} has shape {tuple(numbers.shape)}",
                )

    def start(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Returns B_k of zeros and random A_k, side by side; see `WeightChanges.start`."""
        numbers = torch.zeros(shape)
        for part in numbers:
            nn.init.kaiming_uniform_(part[:, self._outputs[name] :], a=math.sqrt(5))  # as LoRA
        return numbers

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        self._outputs = {name: weight.shape[0] for name, weight in model.named_parameters()}
        super().build(model)

    def prepared(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the parts W_k of a matrix, (K, m, n)."""
        count = self.changes[self.names.index(name)].shape[0]
        left, sizes, right = torch.linalg.svd(weight.float(), full_matrices=False)
        energy = sizes.double().cumsum(0)
        # a value belongs to the part in which its share of the sum begins
        part = ((energy - sizes) / energy[-1].clamp_min(1e-300) * count).floor().clamp(0, count - 1)
        parts = [(left * (sizes * (part == k))) @ right for k in range(count)]
        return (torch.stack(parts).to(weight.dtype),)

    def change(self, numbers: torch.Tensor, prepared: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Returns `sum_k W_k * (B_k A_k)`."""
        (parts,) = prepared
        # what the backward pass needs is computed there again: kept, it would be a copy in float32
        # of all parts of all matrices, twice the size of the parts themselves in bfloat16
        changed: torch.Tensor = checkpoint(
            _products, numbers, parts, use_reentrant=False, preserve_rng_state=False
        )
        return changed

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        parts, rank = self.changes[0].shape[:2]
        return f"SMoA of rank {rank} for {parts} parts of {len(self.names)} matrices"


def _products(numbers: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    up, down = numbers[..., : parts.shape[1]], numbers[..., parts.shape[1] :]
    changed: torch.Tensor = (parts.float() * (up.transpose(1, 2) @ down)).sum(0)
    return changed
