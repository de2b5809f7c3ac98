"""Vectors stand in biases only where that is the same sum, and only for a while."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from steer_lightning.model.folded_biases import bias_home, folded_into_biases
from steer_lightning.steering import ConstantVector
from steer_lightning.testing import ARCHITECTURES, tiny_model

IDS = torch.tensor([[1, 10, 20, 30]])


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_which_layers_have_a_home(architecture: str) -> None:
    model = tiny_model(architecture)
    layers = [
        x
        for x in model.modules()
        if type(x).__name__.endswith(("Layer", "GPT2Block", "NemotronHBlock"))
    ]
    homes = {bias_home(layer, "layer_output") for layer in layers}
    if architecture in ("llama", "mistral", "phi3", "qwen2", "qwen3"):
        assert homes == {layer.mlp.down_proj for layer in model.model.layers}
    else:
        assert homes == {None}


def test_what_has_no_home() -> None:
    layer = tiny_model().model.layers[0]
    assert bias_home(layer, "mlp_output") is layer.mlp.down_proj
    for site in ("input_norm", "attention_output", "post_attention_norm"):
        assert bias_home(layer, site) is None
    layer.__class__ = type("FSDPLlamaDecoderLayer", (type(layer),), {})
    assert bias_home(layer, "layer_output") is layer.mlp.down_proj
    layer.__class__ = type("OtherDecoderLayer", (type(layer),), {})
    assert bias_home(layer, "layer_output") is None, "a subclass may end otherwise"


@pytest.mark.parametrize("home", [nn.Linear(64, 32), type("Q4", (nn.Linear,), {})(64, 32, False)])
def test_a_bias_that_is_there_or_quantised_weights_stay(home: nn.Linear) -> None:
    layer = tiny_model().model.layers[0]
    layer.mlp.down_proj = home
    assert bias_home(layer, "layer_output") is None


def test_the_sum_is_that_of_the_vector_in_the_dtype_of_the_weights() -> None:
    model = tiny_model().to(torch.bfloat16)
    layers, seen = model.model.layers, []
    layers[1].mlp.down_proj.register_forward_hook(lambda m, x, output: seen.append(output))
    vectors = [
        ConstantVector(layers[0], "layer_output", torch.zeros(32)),
        ConstantVector(layers[1], "layer_output", torch.arange(32.0)),
    ]
    model(IDS)
    with folded_into_biases(vectors):
        assert layers[0].mlp.down_proj.bias is None, "zero is the base, bit for bit"
        assert layers[1].mlp.down_proj.bias.dtype == torch.bfloat16
        assert not layers[1].mlp.down_proj.bias.requires_grad
        model(IDS)
    assert [vector.is_folded for vector in vectors] == [False, True]
    plain, steered = (output.float() for output in seen)
    torch.testing.assert_close(steered, plain + torch.arange(32.0), rtol=2**-7, atol=0.01)
    assert layers[1].mlp.down_proj.bias is None


def test_an_error_leaves_the_base_as_it_was() -> None:
    model = tiny_model()
    names, logits = list(model.state_dict()), model(IDS).logits
    vectors = [ConstantVector(x, "layer_output", torch.ones(32)) for x in model.model.layers]
    with suppress(KeyError), folded_into_biases(vectors):
        assert len(model.state_dict()) == len(names) + 3
        raise KeyError
    assert list(model.state_dict()) == names
    assert torch.equal(model(IDS).logits, logits)
