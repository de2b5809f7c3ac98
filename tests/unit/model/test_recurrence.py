"""The interface to recurrent layers: their states in a cache, and the modules that mix."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.model.recurrence import Name, RecurrentCache, recurrent_mixers
from steer_lightning.testing import ARCHITECTURES, tiny_policy

MIXERS = {
    "granite4": ["mamba", "mamba"],
    "lfm2": ["conv", "conv"],
    "nemotron_h": ["mixer"],
    "qwen3_5": ["linear_attn", "linear_attn"],
    "qwen3_next": ["linear_attn", "linear_attn"],
}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_recurrent_modules_are_found(architecture: str) -> None:
    policy = tiny_policy(architecture)
    names = {module: name for name, module in policy.layers.named_modules()}
    found = [names[module].partition(".")[2] for module in recurrent_mixers(policy.layers)]
    assert found == MIXERS.get(architecture, [])


class Kept:
    """States of one layer."""

    def __init__(self) -> None:
        self.states: dict[Name, torch.Tensor] = {}

    def read(self, name: Name) -> torch.Tensor | None:
        return self.states.get(name)

    def write(self, name: Name, state: torch.Tensor) -> None:
        self.states[name] = state


@pytest.mark.parametrize(
    ("inputs", "kept"), [([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0]), ([1.0], [0.0, 0.0, 1.0])]
)
def test_a_convolution_keeps_as_many_inputs_as_its_kernel_is_wide(
    inputs: list[float], kept: list[float]
) -> None:
    cache = RecurrentCache([None, None], [Kept(), Kept()])
    assert cache.get_conv_state(1) is None
    full = cache.update_conv_state(torch.tensor([[inputs]]), 1, conv_kernel_size=3)
    assert full.tolist() == [[inputs]]
    state = cache.get_conv_state(1)
    assert state is not None
    assert state.tolist() == [[kept]]
    assert cache.get_conv_state(0) is None
    assert cache.get_recurrent_state(1) is None
    cache.update_recurrent_state(torch.ones(1), 1)
    assert cache.get_recurrent_state(1) == 1
