"""Every kind of steering, and vectors whose numbers are seen at a glance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from steer_lightning.steering import (
    BitFit,
    FullFinetune,
    LoRA,
    SMoA,
    Steering,
    SteeringVectors,
    TinyLoRA,
    VectorFit,
    VeRA,
)
from steer_lightning.steering.arithmetic import plain_vectors

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
Make = Callable[[], Steering]
KINDS: dict[str, Make] = {
    "full": FullFinetune,
    "biases": BitFit,
    "vectorfit": VectorFit,
    "lora": LoRA,
    "lora of rank 1": partial(LoRA, rank=1, alpha=3.0, target_modules=["down_proj"], layers=[1, 2]),
    "tiny lora": TinyLoRA,
    "tiny lora, three vectors": partial(TinyLoRA, rank=4, u=2, weight_tying=6 / 7),
    "vera": partial(VeRA, rank=24),
    "smoa": partial(SMoA, rank=2, parts=3),
}


def by_formula(steering: TinyLoRA | VeRA, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """The change of each weight as the papers write it, from the numbers and frozen matrices."""
    names = [*steering.names, *steering.frozen_names]
    parts = dict(zip(names, steering.tensors(), strict=True))
    linear = sorted(set(steering.linear_names()))
    found = {}
    in_order = [name[: -len(".weight")] for name in shapes if name[: -len(".weight")] in linear]
    for row, name in enumerate(in_order):
        own = f"model.{name}"
        if isinstance(steering, VeRA):
            outputs, inputs = shapes[f"{name}.weight"]
            up = parts[f"{own}.vera_lambda_b"].diag() @ parts["vera_B"][:outputs]
            down = parts[f"{own}.vera_lambda_d"].diag() @ parts["vera_A"][:, :inputs]
            found[f"{name}.weight"] = up @ down
        else:
            v = parts[f"tinylora_v.{row * len(steering.names) // len(in_order)}"]
            inner = sum(x * p for x, p in zip(v, parts[f"{own}.tinylora_P"], strict=True))
            found[f"{name}.weight"] = (
                parts[f"{own}.tinylora_B"] @ inner @ parts[f"{own}.tinylora_A"]
            )
    return found


def parts_of(weight: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The parts of a weight for SMoA, one singular value after another."""
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    parts, seen = [torch.zeros_like(weight) for _ in range(count)], 0.0
    for k, size in enumerate(sizes):
        row = min(int(seen / float(sizes.sum()) * count), count - 1)
        parts[row] += size * left[:, k : k + 1] @ right[k : k + 1]
        seen += float(size)
    return parts


def smoa_by_formula(steering: SMoA, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The change of each weight as the paper writes it."""
    found = {}
    for name, numbers in zip(steering.names, steering.changes, strict=True):
        weight = base[name].detach()
        parts = parts_of(weight, len(numbers))
        pairs = [(both[:, : len(weight)].T, both[:, len(weight) :]) for both in numbers]
        found[name] = sum(part * (up @ down) for part, (up, down) in zip(parts, pairs, strict=True))
    return found


by_kind = pytest.mark.parametrize("kind", KINDS)


def disturb(steering: Steering) -> None:
    # what SMoA multiplies with the weights is a product of two small numbers
    std = 0.3 if isinstance(steering, SMoA) else 0.03
    for parameter in steering.parameters():
        parameter.data.normal_(std=std)


def make_vectors(
    rows: dict[int, list[float]], num_layers: int = 4, **facts: str
) -> SteeringVectors:
    facts = {"base_model": "b", "step": "9", **facts}
    numbers = torch.tensor([rows[layer] for layer in sorted(rows)])
    return plain_vectors(numbers, sorted(rows), num_layers, facts)


def rows_of(vectors: SteeringVectors) -> dict[int, list[float]]:
    return dict(zip(vectors.layers, vectors.vectors.tolist(), strict=True))


A = {0: [1.0, 2.0], 2: [3.0, -4.0]}
B = {2: [10.0, 0.0], 3: [0.5, 0.5]}
