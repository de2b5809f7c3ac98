"""A model is steered in two lines of Python."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_model

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])


def test_scale_multiplies_and_can_be_changed() -> None:
    model = tiny_model()
    vectors = torch.randn(3, 32)
    with attach(model, 2 * vectors):
        expected = model(IDS).logits
    attachment = attach(model, vectors, scale=2.0)
    torch.testing.assert_close(model(IDS).logits, expected)
    attachment.scale = 0.0
    base = model(IDS).logits
    attachment.remove()
    attachment.remove()
    torch.testing.assert_close(model(IDS).logits, base)


def test_two_lines_of_plain_python_steer_generate(tmp_path) -> None:
    model = tiny_model("qwen2")
    path = tmp_path / "v.safetensors"
    save_vectors(torch.randn(3, 32) * 5, path, base_model="tiny")
    plain = model.generate(IDS, max_new_tokens=8, do_sample=False)
    with attach(model, path):
        steered = model.generate(IDS, max_new_tokens=8, do_sample=False)
    assert not torch.equal(plain, steered)
    with attach(model, load_vectors(path)):
        assert torch.equal(model.generate(IDS, max_new_tokens=8, do_sample=False), steered)
    assert torch.equal(model.generate(IDS, max_new_tokens=8, do_sample=False), plain)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.zeros(2, 32), "3 decoder layers"),
        (torch.zeros(3, 16), "width 16.*width 32"),
        (torch.zeros(32), "two dimensions"),
        (SteeringVectors([0]).shaped(32, 5), "decoder layers 5.*decoder layers 3"),
    ],
)
def test_vectors_of_another_model_show_both_sides(vectors: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach(tiny_model(), vectors)
