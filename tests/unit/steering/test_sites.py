"""Places in a layer: what they are, and where they are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError, attach
from steer_lightning.model.policy import Policy
from steer_lightning.steering import SteeringVectors, find_layers
from steer_lightning.steering.sites import find_sites
from steer_lightning.testing import save_tiny, tiny_model
from tests.odd_places import odd_model

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
SITES = ["layer_output", "input_norm", "attention_output", "post_attention_norm", "mlp_output"]

LACKING = {
    "olmo2": {"input_norm", "post_attention_norm"},  # its norms stand behind attention and MLP
    "falcon": {"post_attention_norm"},  # one norm for both
    "opt": {"input_norm", "post_attention_norm", "mlp_output"},  # depends on the size; no module
}


def output_of(module: nn.Module, seen: list[torch.Tensor]) -> Any:
    return module.register_forward_hook(
        lambda m, x, y: seen.append((y if torch.is_tensor(y) else y[0]).detach().clone())
    )


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "gpt_neox", *LACKING])
def test_the_output_of_the_place_is_shifted(architecture: str, site: str) -> None:
    model, vectors = tiny_model(architecture), SteeringVectors([1], site=site)
    if site in LACKING.get(architecture, set()):
        with pytest.raises(ConfigError, match=rf"site = '{site}'.*model\.base.*attention_output"):
            vectors.build(model)
        return
    vectors.build(model)
    (place,) = find_sites(find_layers(model), [1], site)
    base = model(IDS).logits
    with attach(model, vectors):
        assert torch.equal(model(IDS).logits, base), "zero vectors are the base, bit for bit"
    vectors.set_vectors(torch.randn(1, 32))
    seen: list[torch.Tensor] = []
    handle = output_of(place, seen)
    model(IDS)
    handle.remove()
    with attach(model, vectors):
        handle = output_of(place, seen)
        assert (model(IDS).logits - base).abs().max() > 1e-4
        handle.remove()
    torch.testing.assert_close(seen[1], seen[0] + vectors.vectors[0])


def test_what_a_site_is_by_what_reads_it() -> None:
    """Gemma's post_attention_layernorm is not what enters its MLP."""
    layers = find_layers(tiny_model("gemma3"))
    (found,) = find_sites(layers, [0], "post_attention_norm")
    assert found is layers[0].pre_feedforward_layernorm
    (found,) = find_sites(find_layers(tiny_model("qwen2")), [0], "post_attention_norm")
    assert type(found).__name__ == "Qwen2RMSNorm"


def test_a_site_that_is_not_there_is_refused_before_the_weights_are_read(tmp_path) -> None:
    folder = save_tiny(tmp_path, "olmo2")
    (tmp_path / "model.safetensors").unlink()
    policy = Policy(folder, steering=SteeringVectors(site="input_norm"))
    with pytest.raises(ConfigError, match=r"model\.steering\.site.*model\.base.*Olmo2Decoder"):
        policy.load()
    with pytest.raises(ConfigError, match=r"layers = \[7\].*0 to 2"):
        Policy(folder, steering=SteeringVectors([7])).prepare()


def test_a_vector_behind_the_mlp_is_one_at_the_output_where_no_norm_is_between() -> None:
    rows = torch.randn(3, 32)
    for architecture, same in (("qwen2", True), ("gemma3", False)):
        model, found = tiny_model(architecture), []
        for site in ("layer_output", "mlp_output"):
            vectors = SteeringVectors(site=site).shaped(32, 3)
            vectors.set_vectors(rows)
            with attach(model, vectors) as attachment, torch.no_grad():
                found.append(model(IDS).logits)
                with attachment.constant():
                    torch.testing.assert_close(model(IDS).logits, found[-1])
        assert torch.allclose(*found, atol=1e-5) == same


def test_a_list_of_modules_is_no_site() -> None:
    layers = find_layers(odd_model("longcat"))
    with pytest.raises(ConfigError, match=r"LongcatFlash.*Set one of layer_output, mlp_output"):
        find_sites(layers, [0], "attention_output")
    layers = find_layers(odd_model("afmoe"))
    assert find_sites(layers, [1], "post_attention_norm") == [layers[1].pre_mlp_layernorm]
