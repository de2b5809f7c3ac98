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
    Steering,
    SteeringVectors,
    VectorFit,
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
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def disturb(steering: Steering) -> None:
    for parameter in steering.parameters():
        parameter.data.normal_(std=0.03)


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
