"""A model is steered in two lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.model.quantization import quantize_base
from steer_lightning.steering import LoReFT, SMoA, SteeringVectors, TinyLoRA, VectorFit, VeRA
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


def test_the_folder_of_a_run_is_enough(tmp_path: Path) -> None:
    model, run = tiny_model(), tmp_path / "runs/run-2"
    base = model(IDS).logits
    (run / "summary.json").parent.mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    save_vectors(torch.randn(3, 32), run / "steering_vectors.safetensors", base_model="tiny")
    with attach(model, run / "steering_vectors.safetensors"):
        expected = model(IDS).logits
    for given in (run, str(run), load_vectors(run)):
        with attach(model, given):
            assert torch.equal(model(IDS).logits, expected)
    assert not torch.equal(expected, base)
    with pytest.raises(ConfigError, match=r"contains no steering_vectors.* such as .*run-2"):
        attach(model, tmp_path / "runs")


@pytest.mark.parametrize("bits", [4, 8])
def test_the_model_is_asked_whether_it_is_quantised(
    bits: Literal[4, 8], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantised, plain = quantize_base(tiny_model(), bits), tiny_model()
    trained = SteeringVectors().shaped(32, 3)
    trained.save(tmp_path / "plain.safetensors", base_model="tiny")
    trained.base_bits = bits
    trained.save(tmp_path / "quantised.safetensors", base_model="tiny")

    def warnings(model: nn.Module, vectors: Path | torch.Tensor) -> str:
        caplog.clear()
        attach(model, vectors).remove()
        return caplog.text

    of_quantised, of_plain = tmp_path / "quantised.safetensors", tmp_path / "plain.safetensors"
    assert not warnings(quantised, of_quantised)
    assert not warnings(plain, of_plain)
    assert not warnings(quantised, torch.zeros(3, 32)), "nothing is known of a tensor"
    ours, other = f"a base in {bits} bits", "a base that is not quantised"
    assert f"trained on {ours}, and are used on {other}" in warnings(plain, of_quantised)
    assert f"trained on {other}, and are used on {ours}" in warnings(quantised, of_plain)
    plain.config.quantization_config = {"quant_method": "gptq"}
    assert not warnings(plain, of_quantised) + warnings(plain, of_plain)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ("/nowhere/run-1", "vectors = '/nowhere/run-1': there is no such file"),
        ([torch.zeros(32)] * 3, r"vectors = 'an object of type list': must be .*torch\.stack"),
        (None, "an object of type NoneType"),
    ],
)
def test_what_holds_no_vectors_is_refused_in_words(vectors: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach(tiny_model(), vectors)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Qwen/Qwen2.5-1.5B", r"model = 'Qwen/Qwen2.5-1.5B': must be .*load_model\(NAME\)"),
        (nn.Linear(32, 32), "model = 'an object of type Linear': must be a causal language model"),
        (
            BertModel(
                BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
            ),
            "no decoder layers found in BertModel",
        ),
    ],
    ids=["name", "module", "encoder"],
)
def test_what_is_no_language_model_is_refused_in_words(model: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach(model, torch.zeros(3, 32))


@pytest.mark.parametrize("kind", [SteeringVectors, LoReFT, SMoA, TinyLoRA, VeRA, VectorFit])
def test_the_path_of_the_layers_is_used_by_every_kind_that_has_layers(kind: Any) -> None:
    model, steering = tiny_model("qwen2"), kind()
    with pytest.raises(
        ConfigError, match=r"no decoder layers found in Qwen2.* at model\.elsewhere"
    ):
        attach(model, steering, layers_path="model.elsewhere")
    attach(model, kind(), layers_path="model.layers").remove()
