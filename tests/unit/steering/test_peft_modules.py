"""What kinds in PEFT's modules share: the folder's configuration, and weights that are hidden."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.steering import LoRA, TinyLoRA
from steer_lightning.steering.peft_modules import (
    check_plain,
    is_linear,
    read_config,
    without_values,
)
from steer_lightning.testing import tiny_model

PLAIN = {"r": 2, "target_modules": ["q_proj"], "peft_type": "LORA"}


def write(folder: Path, config: object) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_configuration_of_a_folder(tmp_path: Path) -> None:
    found = read_config(write(tmp_path, {**PLAIN, "base_model_name_or_path": "a\nb"}))
    assert found["layers_to_transform"] == "all"
    assert "\n" not in found["base_model_name_or_path"]
    assert read_config(write(tmp_path, {**PLAIN, "layers_to_transform": 1}))[
        "layers_to_transform"
    ] == [1]
    for bad, told in (
        ([], "no usable"),
        ({"r": 2}, "no usable"),
        ({**PLAIN, "r": True}, "unknown types"),
        ({**PLAIN, "peft_type": ["LORA"]}, "unknown types"),
        ({**PLAIN, "layers_to_transform": [True]}, "unknown types"),
    ):
        with pytest.raises(ConfigError, match=told):
            read_config(write(tmp_path, bad))


def test_what_is_not_plain_is_named(tmp_path: Path) -> None:
    config = {"bias": "none", "a": False, "b": {}, "c": None, "d": [1], "e": True}
    check_plain(tmp_path, config, "LoRA", ["bias", "a", "b", "c", "missing"])
    with pytest.raises(ConfigError, match=r"must be plain LoRA, but .* has d, e"):
        check_plain(tmp_path, config, "LoRA", ["a", "d", "e"])


def test_weights_are_hidden_in_the_block_and_come_back() -> None:
    model = tiny_model("gpt2")
    linear = [module for module in model.modules() if is_linear(module)]
    before = [module.weight for module in linear]
    with without_values(model):
        assert all(module.weight.is_meta for module in linear)
        assert [m.weight.shape for m in linear] == [weight.shape for weight in before]
    assert all(module.weight is weight for module, weight in zip(linear, before, strict=True))


@pytest.mark.parametrize("kind", [LoRA, TinyLoRA])
def test_without_peft_the_remedy_is_told(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=rf"model\.steering = '{kind.__name__}': needs the pack"):
        kind()


def test_names_of_a_base_are_its_own() -> None:
    tiny = TinyLoRA()
    name = "model.layers.0.self_attn.q_proj"
    assert tiny.base_name(f"{name}.base_layer.weight") == f"{name}.weight"
    assert tiny.base_name(f"{name}.tinylora_A.default") is None
    assert tiny.base_name("model.norm.weight") == "model.norm.weight"
