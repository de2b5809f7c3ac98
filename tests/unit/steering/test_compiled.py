"""Compiled models are refused, and compiled code that a model does not know of is made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.steering import READ, FullFinetune, SteeringVectors
from steer_lightning.testing import tiny_model

IDS = torch.tensor([[1, 10, 20, 30, 40]])
can_compile = pytest.mark.skipif(
    torch.__version__.startswith("2.6"),
    reason="torch 2.6 can't compile models of transformers 5.23",
)


def small_model() -> Any:
    return tiny_model(layers=2).requires_grad_(False)


def vectors_at(site: str = "layer_output", tokens: str = "all") -> SteeringVectors:
    vectors = SteeringVectors(site=site, tokens=tokens, scale="none").shaped(32, 2)
    vectors.set_vectors(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))
    return vectors.requires_grad_(False)


def wrapped(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def its_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def its_decoder(model: Any) -> Any:
    model.model.compile(backend="eager")
    return model


def its_layers(model: Any) -> Any:
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


@pytest.fixture(autouse=True)
def forget() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("compiled", [wrapped, in_place, its_forward, its_decoder])
def test_a_compiled_model_is_refused(compiled: Callable[[Any], Any]) -> None:
    model = compiled(small_model())
    for _ in range(2):  # a refusal leaves nothing behind
        with pytest.raises(
            ConfigError, match=r"is compiled.*result of torch\.compile.*layer\.compile"
        ):
            attach(model, vectors_at())
    assert not any(layer._forward_hooks for layer in model.model.layers)
    assert "generate" not in vars(model)


@pytest.mark.parametrize("tokens", ["all", "prompt"])
def test_layers_that_are_compiled_each_can_be_steered_at_their_output(tokens: str) -> None:
    plain, model = small_model(), its_layers(small_model())
    base = model(IDS, use_cache=False).logits  # compiles
    vectors = vectors_at(tokens=tokens)
    expected = []
    for scale in (1.0, 2.0):
        with attach(plain, vectors, scale=scale):
            expected.append(plain(IDS).logits)
    assert (expected[0] - base).abs().max() > 0.1
    with attach(model, vectors) as attachment:
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected[0])
        attachment.scale = 2.0
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected[1])
    torch.testing.assert_close(model(IDS, use_cache=False).logits, base)
    with pytest.raises(ConfigError, match=r"model\.layers\.0 is compiled"):
        attach(model, vectors_at("mlp_output"))


def test_a_compiled_part_without_a_place_inside_does_no_harm() -> None:
    plain, model = small_model(), small_model()
    for layer in model.model.layers:
        layer.mlp.compile(backend="eager")
    model(IDS)
    for site in ("layer_output", "mlp_output"):
        with attach(plain, vectors_at(site)), attach(model, vectors_at(site)):
            torch.testing.assert_close(model(IDS).logits, plain(IDS).logits)


@can_compile
def test_a_model_that_is_compiled_once_steered_can_be_scaled_and_left() -> None:
    plain, model, vectors = small_model(), small_model(), vectors_at("mlp_output")
    base = plain(IDS, use_cache=False).logits
    with attach(plain, vectors):
        expected = plain(IDS, use_cache=False).logits
    with attach(model, vectors) as attachment:
        model.compile(backend="eager")
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
        attachment.scale = 0.0
        torch.testing.assert_close(model(IDS, use_cache=False).logits, base)
        attachment.scale = 1.0
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, base)
    with pytest.raises(ConfigError, match="is compiled"):
        attach(model, vectors)


@pytest.mark.parametrize("compiled", [in_place, its_forward, its_layers])
def test_changed_weights_take_no_compiled_part(compiled: Callable[[Any], Any]) -> None:
    model, steering = small_model(), FullFinetune()
    steering.build(model)
    with attach(model, steering):
        model(IDS)
        compiled(model)
        with pytest.raises(ConfigError, match="is compiled"):
            model(IDS)
    with pytest.raises(ConfigError, match="is compiled"):
        attach(model, steering)


def a_function(model: Any) -> Callable[..., Any]:
    return torch.compile(lambda *args, **kwargs: model(*args, **kwargs), backend="eager")


def all_weights(model: Any) -> FullFinetune:
    steering = FullFinetune()
    steering.build(model)
    for numbers in steering.changes:
        numbers.data.fill_(0.01)
    return steering.requires_grad_(False)


def side_network(model: Any) -> READ:
    steering = READ(rank=2)
    steering.build(model)
    steering.up.data.fill_(0.3)
    return steering.requires_grad_(False)


def with_its_own_forwards(model: Any) -> Any:
    for layer in model.model.layers:
        layer.forward = layer.forward
    return model


@can_compile
@pytest.mark.parametrize(
    ("compiled", "prepare", "kind"),
    [
        (wrapped, lambda model: model, lambda model: vectors_at()),
        pytest.param(
            wrapped,
            with_its_own_forwards,
            lambda model: vectors_at("layer_output", "prompt"),
            marks=pytest.mark.slow,
        ),
        (wrapped, lambda model: model, all_weights),
        (wrapped, lambda model: model, side_network),
        (a_function, lambda model: model, lambda model: vectors_at("mlp_output")),
    ],
    ids=["layers", "replaced", "weights", "state", "function"],
)
def test_what_was_compiled_before_follows_what_is_attached(
    compiled: Callable[[Any], Any], prepare: Callable[[Any], Any], kind: Callable[[Any], Any]
) -> None:
    model = prepare(small_model())
    before = [vars(module).get("forward") for module in model.modules()]
    other, steering = compiled(model), kind(model)

    def moved() -> float:
        ours, theirs = (run(IDS, use_cache=False).logits for run in (model, other))
        torch.testing.assert_close(theirs, ours)
        return float((ours - base).abs().max())

    with torch.no_grad():
        base = other(IDS, use_cache=False).logits
        for scale in (1.0, 2.0):  # the second attachment is to what was compiled in the meantime
            with attach(model, steering, scale=0.0) as attachment:
                assert moved() == 0
                attachment.scale = scale
                assert moved() > 0.01
            assert moved() == 0
    assert [vars(module).get("forward") for module in model.modules()] == before
    assert not any("_steer_lightning_trace" in vars(module) for module in model.modules())


def test_attachments_leave_in_any_order_no_forward_behind() -> None:
    model = small_model()
    layer = model.model.layers[0]
    for first in (0, 1):
        both = [attach(model, vectors_at()), attach(model, vectors_at())]
        assert "forward" in vars(layer)
        both[first].remove()
        assert "forward" in vars(layer)
        both[1 - first].remove()
        assert "forward" not in vars(layer)
    attachment = attach(model, vectors_at())
    layer.forward = others = lambda *args, **kwargs: None
    attachment.remove()
    assert layer.forward is others
