"""Sites that are not where their names say are refused, by a look at a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.steering import SteeringVectors, find_layers, find_sites
from steer_lightning.testing import ARCHITECTURES, tiny_model
from tests.odd_places import LAYERS, ODD, WIDTH, odd_model

IDS = torch.tensor([[1, 10, 20, 30, 40]])
SITES = ["input_norm", "attention_output", "post_attention_norm", "mlp_output"]
UNNAMED = ["lfm2", "nemotron_h"]
"""Architectures whose layers have other names for their parts."""
READER = {"input_norm": "attention_output", "post_attention_norm": "mlp_output"}


def vectors_at(site: str, width: int, layers: int) -> SteeringVectors:
    vectors = SteeringVectors(site=site, scale="none").shaped(width, layers)
    vectors.set_vectors(torch.randn(layers, width, generator=torch.Generator().manual_seed(0)))
    return vectors.requires_grad_(False)


def check_place(model: Any, site: str, width: int, layers: int) -> None:
    """What reads the site gets what the site says, and each layer's vector moves the logits."""
    vectors, stack = vectors_at(site, width, layers), find_layers(model)
    base = model(input_ids=IDS, use_cache=False).logits
    for row in range(layers):
        one = vectors_at(site, width, layers)
        rows = torch.zeros(layers, width)
        rows[row] = vectors.vectors[row]
        one.set_vectors(rows)
        with attach(model, one):
            assert (model(input_ids=IDS, use_cache=False).logits - base).abs().max() > 1e-4
    if site not in READER:
        return
    places, seen = find_sites(stack, range(layers), site), {}
    readers = find_sites(stack, range(layers), READER[site])

    def read(row: int) -> Callable[..., None]:
        return lambda m, x, k: seen.update({row: x[0] if x else k["hidden_states"]})

    def put(row: int) -> Callable[..., None]:
        return lambda m, x, y: seen.update({(row, "place"): y})

    handles = [
        x.register_forward_pre_hook(read(k), with_kwargs=True) for k, x in enumerate(readers)
    ]
    handles += [x.register_forward_hook(put(k)) for k, x in enumerate(places)]
    model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    assert all(torch.equal(seen[row], seen[row, "place"]) for row in range(layers))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["afmoe", "gpt1", "longcat", "gemma3n", "deepseek_v4"])
def test_a_site_is_right_or_refused_by_its_name(architecture: str, site: str) -> None:
    model = odd_model(architecture)
    refused = {
        "gpt1": {"input_norm", "post_attention_norm"},  # its norms have these names, elsewhere
        "longcat": {"input_norm", "attention_output", "post_attention_norm"},
    }
    if site in refused.get(architecture, set()):
        with pytest.raises(ConfigError, match=rf"site = '{site}'.*no such site.*mlp_output"):
            attach(model, vectors_at(site, WIDTH, LAYERS))
        assert not any(module._forward_hooks for module in model.modules())
        return
    check_place(model, site, WIDTH, LAYERS)


def test_a_norm_that_something_else_reads_is_named_with_its_layer() -> None:
    with pytest.raises(
        ConfigError,
        match=r"'post_attention_norm': OpenAIGPTLMHeadModel.*In layer 0 the MLP does not read .*"
        r"Set one of layer_output, attention_output, mlp_output",
    ):
        attach(odd_model("gpt1"), vectors_at("post_attention_norm", WIDTH, LAYERS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_site_that_has_a_right_name_is_refused(architecture: str) -> None:
    model, found = tiny_model(architecture), 0
    for site in SITES:
        vectors = vectors_at(site, 32, 3)
        try:
            vectors.build(model)
        except ConfigError:
            continue  # it has no such name
        with attach(model, vectors):
            found += 1
    assert bool(found) == (architecture not in UNNAMED)


def drops_its_mlp(layer: Any) -> Callable[..., Any]:
    return lambda x, **others: (layer.mlp(x), 2 * x)[1]


def reads_twice(layer: Any) -> Callable[..., Any]:
    return lambda x, **others: x + layer.mlp(x) + layer.mlp(2 * x)


def leaves_it_out(layer: Any) -> Callable[..., Any]:
    return lambda x, **others: 2 * x


def narrows_it(layer: Any) -> Callable[..., Any]:
    layer.mlp.forward = lambda x: x[..., :1]
    return lambda x, **others: x + layer.mlp(x)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drops_its_mlp, "the layer's output does not depend on the module"),
        (reads_twice, "the module of that name is called 2 times"),
        (leaves_it_out, "the module of that name is called 0 times"),
        (narrows_it, r"returns a tensor of shape \(1, 5, 1\)"),
    ],
)
def test_a_module_that_is_no_site_is_refused(change: Callable[..., Any], told: str) -> None:
    model = tiny_model()
    layer = find_layers(model)[1]
    layer.forward = change(layer)
    with pytest.raises(ConfigError, match=rf"site = 'mlp_output'.*In layer 1 .*{told}"):
        attach(model, vectors_at("mlp_output", 32, 3))
    if told.endswith("2 times"):  # the layer below is one that fits
        with attach(model, SteeringVectors([0], site="mlp_output").shaped(32, 3)):
            assert layer._forward_hooks == {}


def test_vectors_of_zero_at_the_output_of_layers_need_no_pass() -> None:
    model, passes = tiny_model(), []
    model.register_forward_pre_hook(lambda m, x: passes.append(1))
    with attach(model, SteeringVectors().shaped(32, 3)):
        assert passes == []
    for number, site in enumerate(("layer_output", "mlp_output"), 1):
        with attach(model, vectors_at(site, 32, 3)):
            assert passes == [1] * number


def without_the_second_layer(model: Any) -> Any:
    """A model of three layers, of which a text does not reach the second one."""
    layers = find_layers(model)
    layers[1].forward = lambda x, **others: x
    model.model.layers = AllButTheSecond(layers)
    return model


class AllButTheSecond(torch.nn.ModuleList):
    def __iter__(self) -> Iterator[Any]:
        return iter([x for k, x in enumerate(self._modules.values()) if k != 1])

    def __getitem__(self, index: Any) -> Any:
        return self if isinstance(index, slice) else super().__getitem__(index)


@pytest.mark.parametrize("scale", ["none", "rms"])
def test_layers_that_no_text_reaches_take_no_vector(scale: str) -> None:
    model = without_the_second_layer(tiny_model())
    told = r"steering.layers: a text does not reach the layers \[1\] of LlamaForCausalLM"
    with pytest.raises(ConfigError, match=told):
        attach(model, torch.ones(3, 32))
    assert not any(module._forward_hooks for module in model.modules())
    rows = torch.tensor([1.0, 0.0, 1.0])[:, None] * torch.ones(3, 32)
    base = model(IDS).logits
    with attach(model, rows):
        assert (model(IDS).logits - base).abs().max() > 1e-4
    batches = [(IDS, torch.ones_like(IDS))]
    all_of_them, reached = SteeringVectors(scale=scale), SteeringVectors([0, 2], scale=scale)
    for vectors in (all_of_them, reached):
        vectors.build(model)
    with attach(model, all_of_them), pytest.raises(ConfigError, match=told):
        all_of_them.measure(model, batches)
    reached.measure(model, batches)
    assert (reached.unit == 1).all() == (scale == "none")


def test_a_site_is_checked_in_16_bits() -> None:
    model = tiny_model("qwen2").to(torch.bfloat16)
    model.get_input_embeddings().weight.data.mul_(1e4)  # large beside what the MLP adds
    with attach(model, vectors_at("mlp_output", 32, 3)):
        assert model(IDS).logits.dtype == torch.bfloat16


def test_the_odd_models_are_what_they_are_said_to_be() -> None:
    assert {name: len(find_layers(odd_model(name))) for name in ODD} == dict.fromkeys(ODD, LAYERS)
