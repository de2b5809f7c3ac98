"""Vectors whose size depends on the token, by hand and against the formula."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning import ConfigError, attach, load_vectors
from steer_lightning.steering import AdaptiveVectors, SteeringVectors, find_layers
from steer_lightning.testing import tiny_model

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])


def test_the_gate_by_hand() -> None:
    vectors = AdaptiveVectors([1]).shaped(4, 3)
    assert vectors.num_trained == 8
    stream = torch.tensor([[[2.0, 0, 0, 0], [3, 3, 3, 3]]])  # root mean squares 1 and 3
    assert vectors.gate(0, stream).flatten().tolist() == [1.0, 1.0]
    vectors.gates.data[0, :4] = torch.tensor([1.0, 0, 0, 0])
    # 2 * 1 / sqrt(4) = 1 and 1 * 1 / sqrt(4) = 0.5
    expected = [2 / (1 + math.exp(-1)), 2 / (1 + math.exp(-0.5))]
    assert vectors.gate(0, stream).flatten().tolist() == pytest.approx(expected)


def test_an_adaptive_vector_is_added_as_the_formula_says(tmp_path) -> None:
    model, vectors = tiny_model(), AdaptiveVectors([1]).shaped(32, 3)
    base = model(IDS).logits
    vectors.gates.data.normal_()
    with attach(model, vectors):
        assert torch.equal(model(IDS).logits, base), "a zero vector, whatever its gate"
    vectors.set_vectors(torch.randn(1, 32))
    seen: list[torch.Tensor] = []
    layer = find_layers(model)[1]
    handle = layer.register_forward_hook(lambda m, x, y: seen.append(y.detach()))
    model(IDS)
    handle.remove()
    with attach(model, vectors):
        handle = layer.register_forward_hook(lambda m, x, y: seen.append(y.detach()))
        steered = model(IDS).logits
        handle.remove()
    plain, found = seen
    slope = (plain / plain.pow(2).mean(-1, keepdim=True).sqrt()) @ vectors.gates[0, :32]
    gate = 2 / (1 + torch.exp(-slope / math.sqrt(32)))
    expected = plain + gate[..., None] * vectors.vectors[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    path = tmp_path / "v.safetensors"
    vectors.save(path, base_model="b")
    loaded = load_vectors(path)
    assert isinstance(loaded, AdaptiveVectors)
    assert torch.equal(loaded.vectors, vectors.vectors)
    assert torch.equal(loaded.gates[:, :32], vectors.gates[:, :32])
    with attach(model, path):
        assert torch.equal(model(IDS).logits, steered)
    with pytest.raises(ConfigError, match=r"init_from.*contains AdaptiveVectors.*SteeringVectors"):
        SteeringVectors([1], init_from=str(path)).build(model)
    again = AdaptiveVectors([1], init_from=str(path))
    again.build(model)
    assert torch.equal(again.gates[:, :32], vectors.gates[:, :32])
