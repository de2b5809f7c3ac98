"""What optimizers keep, in bytes."""

from __future__ import annotations

import bitsandbytes as bnb
import torch

from steer_lightning.optim import state_facts
from steer_lightning.steering import SteeringVectors


def step_once(optimizer: torch.optim.Optimizer, vectors: SteeringVectors) -> torch.Tensor:
    vectors.vectors.pow(2).sum().backward()
    optimizer.step()
    return optimizer.state[vectors.weight]["state1"]


def test_eight_bits_are_eight_bits() -> None:
    vectors = SteeringVectors().shaped(1536, 28)
    optimizer = bnb.optim.AdamW8bit([vectors.weight], lr=1e-3, weight_decay=0.0)
    state = step_once(optimizer, vectors)
    assert state.dtype == torch.uint8
    assert state.numel() == 28 * 1536  # a byte a number
    tables, scales, blocks = 2 * 256 * 4, 4, 28 * 1536 // 256
    size, kinds = state_facts(optimizer)
    assert size == 2 * (28 * 1536 + scales * blocks) + tables
    assert kinds == ["uint8"]
    plain = torch.optim.AdamW([vectors.weight])
    vectors.vectors.pow(2).sum().backward()
    plain.step()
    assert state_facts(plain) == (2 * 4 * 28 * 1536 + 4, ["float32"])  # and the count of steps


def test_each_layer_has_its_own_quantisation_blocks() -> None:
    vectors = SteeringVectors().shaped(896, 24)  # 896 is 3.5 blocks
    assert vectors.weight.shape == (24, 1024)
    vectors.weight.data[0, :896] = 1000.0
    vectors.weight.data[1, :896] = 0.001
    optimizer = bnb.optim.AdamW8bit([vectors.weight], lr=1e-3, weight_decay=0.0, min_8bit_size=0)
    step_once(optimizer, vectors)
    scales = optimizer.state[vectors.weight]["absmax1"].view(24, 4)
    assert (scales[0, :4] > 1).all()
    assert (scales[1, :4] < 1e-3).all()  # a neighbour a million times larger does not reach over
    assert vectors.vectors.shape == (24, 896)
    assert (vectors.weight[:, 896:] == 0).all()
