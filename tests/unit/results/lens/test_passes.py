"""Passes with one vector, with all and with none, and which parts come next behind a vector."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.model.attention import open_weights
from steer_lightning.results.lens.layer_parts import find_parts
from steer_lightning.results.lens.passes import Passes
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_model, tiny_policy
from tests.odd_places import odd_policy

IDS = torch.arange(3, 15)[None]


def steered(architecture: str, site: Any = "layer_output") -> Any:
    policy = tiny_policy(architecture, SteeringVectors(site=site))
    torch.manual_seed(1)
    policy.steering.set_vectors(torch.randn(3, 32))  # type: ignore[operator]
    return policy


@pytest.mark.parametrize(
    ("site", "attention", "mlp"),
    [
        ("layer_output", 2, 2),
        ("input_norm", 1, 1),
        ("attention_output", 2, 1),
        ("post_attention_norm", 2, 1),
        ("mlp_output", 2, 2),
    ],
)
def test_the_next_parts_behind_each_site(site: str, attention: int, mlp: int) -> None:
    policy = steered("llama", site)
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        expected = {"attention": ("attention", attention), "mlp": ("mlp", mlp)}
        assert found.first_changed(IDS, 1) == expected


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2", "glm4"])
def test_a_norm_behind_an_mlp_is_not_the_next_mlp(architecture: str) -> None:
    """A vector at the output of the MLP goes into that norm, and the MLP before it sees nothing."""
    if architecture == "glm4":
        policy = odd_policy(architecture, SteeringVectors(site="mlp_output"))
    else:
        policy = steered(architecture, "mlp_output")
    policy.steering.set_vectors(torch.ones_like(policy.steering.vectors))  # type: ignore[operator]
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        expected = {"attention": ("attention", 2), "mlp": ("mlp", 2)}
        assert found.first_changed(IDS, 1) == expected
        base, together = found.base(IDS), found.together(IDS)
        torch.testing.assert_close(together["mlp", 0].output, base["mlp", 0].output)
        torch.testing.assert_close(together["mlp", 0].given, base["mlp", 0].given)
        assert not torch.equal(together["mlp", 1].output, base["mlp", 1].output)


def test_the_mlp_of_a_parallel_layer_does_not_read_its_attention() -> None:
    """In GPT-NeoX both read the stream that enters the layer."""
    policy = steered("gpt_neox", "attention_output")
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        places = found.first_changed(IDS, 1)
        assert places == {"attention": ("attention", 2), "mlp": ("mlp", 2)}
        assert found.first_changed(IDS, 2) == {}, "nothing comes behind the last layer"


def test_an_attention_behind_a_recurrent_layer() -> None:
    policy = steered("qwen3_5")  # layers 0 and 2 are recurrent
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        assert found.first_changed(IDS, 0)["attention"] == ("attention", 1)
        assert set(found.first_changed(IDS, 1)) == {"mlp"}


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt_oss"])
def test_what_is_seen_is_what_a_plain_model_does(architecture: str) -> None:
    """Weights and outputs of a model of its own, steered by `attach`."""
    policy = steered(architecture)
    vectors = policy.steering.vectors.detach()
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        seen = [
            found.base(IDS),
            found.alone(IDS, 0, [("attention", 1), ("mlp", 1)]),
            found.together(IDS),
        ]
    assert set(seen[1]) == {("attention", 1), ("mlp", 1)}
    assert len(seen[0]) == len(seen[2]) == 6
    only = torch.zeros_like(vectors)
    only[0] = vectors[0]
    for one, acting in zip(seen, (torch.zeros_like(vectors), only, vectors), strict=True):
        model = tiny_model(architecture)
        model.set_attn_implementation("eager")
        streams: list[torch.Tensor] = []
        layer = model.model.layers[1]
        mlp = layer.mlp if architecture != "gemma3" else layer.post_feedforward_layernorm
        mlp.register_forward_hook(
            lambda m, x, y, to=streams: to.append(y if isinstance(y, torch.Tensor) else y[0])
        )
        with torch.no_grad(), attach(model, acting):
            weights = model(IDS, output_attentions=True).attentions[1][0]
        torch.testing.assert_close(one["attention", 1].output, weights)
        torch.testing.assert_close(one["mlp", 1].output, streams[-1][0])
    assert not torch.equal(seen[0]["mlp", 1].output, seen[1]["mlp", 1].output)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [("llama", "attention of layer 2"), ("falcon", "output of the MLP of layer 1")],
)
def test_vectors_that_are_too_large_are_refused(architecture: str, part: str) -> None:
    """Their sum is infinite in float32, and a norm makes NaN of it."""
    policy = steered(architecture)
    policy.steering.set_vectors(torch.full((3, 32), 3e38))
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        assert found.base(IDS)
        with pytest.raises(ConfigError, match=f"the steered {part} is not finite"):
            found.together(IDS)


def test_outputs_are_those_of_the_modules_before_vectors_are_added() -> None:
    policy = steered("llama", "mlp_output")
    with open_weights(policy.model):
        found = Passes(policy, find_parts(policy, IDS))
        torch.testing.assert_close(
            found.base(IDS)["mlp", 0].output, found.together(IDS)["mlp", 0].output
        )
    assert policy.attachment.left_out == frozenset()
