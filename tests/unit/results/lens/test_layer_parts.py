"""Attentions and MLPs of all architectures: those that can be seen, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steer_lightning.model.attention import open_weights
from steer_lightning.results.lens.layer_parts import find_parts
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import ARCHITECTURES, tiny_policy
from tests.odd_places import odd_policy

IDS = torch.arange(3, 15)[None]
PLAIN = ["llama", "qwen2", "qwen3", "mistral", "phi3", "gpt2", "gpt_neox", "gpt_oss", "deepseek_v3"]
NORM_BEHIND = ["gemma2", "gemma3", "olmo2"]
WITHOUT_ATTENTION = {
    **{name: {0, 2} for name in ("qwen3_next", "qwen3_5", "granite4", "lfm2")},
    **{name: {0, 1, 2} for name in ("falcon", "nemotron_h")},
}
WITHOUT_MLP = {"opt", "granite4", "nemotron_h", "lfm2", "gemma4"}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_parts_of_each_architecture(architecture: str) -> None:
    policy = tiny_policy(architecture)
    with torch.no_grad():
        before = policy.model(IDS).logits
    with open_weights(policy.model):
        found = find_parts(policy, IDS)
    assert set(found.attention) == {0, 1, 2} - WITHOUT_ATTENTION.get(architecture, set())
    assert set(found.mlp) == (set() if architecture in WITHOUT_MLP else {0, 1, 2})
    for layer, mlp in found.mlp.items():
        assert mlp.factor == pytest.approx(1, abs=1e-4)
        assert mlp.module is policy.layers[layer].mlp
        behind = architecture in NORM_BEHIND
        assert mlp.norm is (policy.layers[layer].post_feedforward_layernorm if behind else None)
    with torch.no_grad():
        assert torch.equal(policy.model(IDS).logits, before), "nothing is left behind"


@pytest.mark.parametrize("architecture", ["gpt1", "mamba"])
def test_layers_that_do_something_else(architecture: str) -> None:
    """A norm behind the sum changes what the MLP adds, and a mixer is no attention."""
    policy = odd_policy(architecture, SteeringVectors())
    with open_weights(policy.model):
        assert find_parts(policy, IDS).mlp == {}


def test_a_norm_that_reads_more_than_its_mlp_is_not_seen() -> None:
    """What the MLP alone would add can't be told then."""
    policy = odd_policy("afmoe", SteeringVectors())
    with open_weights(policy.model):
        found = find_parts(policy, IDS)
        norms = [layer.post_mlp_layernorm for layer in policy.layers]
        assert [mlp.norm for mlp in found.mlp.values()] == norms
        assert [mlp.module for mlp in found.mlp.values()] == [x.mlp for x in policy.layers]
        norms[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,), prepend=True)
        assert sorted(find_parts(policy, IDS).mlp) == [0, 2, 3]


class Scaled(nn.Module):
    """A layer that adds a multiple of its MLP's output, or its square."""

    def __init__(self, layer: nn.Module, power: int) -> None:
        super().__init__()
        self.mlp, self.power, self.attention_type = layer.mlp, power, "full_attention"

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return hidden_states + 0.25 * self.mlp(hidden_states) ** self.power


def test_the_factor_of_an_mlp_is_measured() -> None:
    for power, expected in ((1, 0.25), (2, None)):
        policy = tiny_policy()
        for k, layer in enumerate(policy.layers):
            policy.layers[k] = Scaled(layer, power)
        found = find_parts(policy, IDS)
        factors = [mlp.factor for mlp in found.mlp.values()]
        assert factors == ([] if expected is None else [pytest.approx(expected, rel=1e-4)] * 3)
        assert found.attention == {}


def test_bases_in_16_bits() -> None:
    policy = tiny_policy("gemma3")
    policy.model.bfloat16()
    with open_weights(policy.model):
        found = find_parts(policy, IDS)
    assert [mlp.factor for mlp in found.mlp.values()] == [pytest.approx(1, abs=0.02)] * 3
    assert set(found.attention) == {0, 1, 2}
