"""LoRA: PEFT reads what is saved, and a damaged adapter is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from steer_lightning import ConfigError, attach
from steer_lightning.model.policy import Policy
from steer_lightning.steering import LoRA, load_steering
from steer_lightning.testing import save_tiny, tiny_model
from tests.unit.steering.helpers import IDS, KINDS, disturb


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_peft_reads_what_lora_saves(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "base", "qwen2")
    for kind in ("lora", "lora of rank 1"):
        policy = Policy(folder, steering=KINDS[kind]())
        policy.load()
        disturb(policy.steering)
        policy.steering.base_bits = 8
        policy.steering.save(tmp_path / kind, base_model=folder, step=3)
        assert load_steering(tmp_path / kind).base_facts == {"base_bits": "8"}
        expected = policy.model(IDS).logits
        model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / kind)
        torch.testing.assert_close(model(IDS).logits, expected)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / kind / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (1, 3.0)
    assert config["base_model_name_or_path"] == folder
    config["use_dora"] = True
    (tmp_path / kind / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"plain LoRA.*use_dora"):
        load_steering(tmp_path / kind)
    (tmp_path / kind / "adapter_config.json").write_text("[")
    with pytest.raises(ConfigError, match=r"no usable adapter_config"):
        load_steering(tmp_path / kind)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # of PEFT, too
@pytest.mark.parametrize(("architecture", "number"), [("qwen2", 7), ("gpt2", 4)])
def test_all_linear_layers_of_some_decoder_layers(
    tmp_path: Path, architecture: str, number: int
) -> None:
    folder = save_tiny(tmp_path / "base", architecture)
    policy = Policy(folder, steering=LoRA(layers=[2]))
    policy.load()
    disturb(policy.steering)
    names = policy.steering.names
    assert len(names) == number
    assert all(".2." in name for name in names)
    assert policy.steering.first_layer == 2
    policy.steering.save(tmp_path / "lora", base_model=folder)
    expected = policy.model(IDS).logits
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora")
    torch.testing.assert_close(model(IDS).logits, expected)
    again = load_steering(tmp_path / "lora")
    plain = tiny_model(architecture)
    with attach(plain, again):
        assert (plain(IDS).logits - expected).abs().max() < 1e-5


def edit_adapter(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


FIRST = "base_model.model.model.layers.1.mlp.down_proj"
DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "not a readable safetens"),
    (
        lambda f: edit_adapter(f, lambda t: t.pop(f"{FIRST}.lora_B.weight")),
        "must have two matrices",
    ),
    (lambda f: edit_adapter(f, lambda t: t.update(x=torch.ones(1))), "adapter_model.* has 'x'"),
    (
        lambda f: edit_adapter(
            f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(2, 64)})
        ),
        r"two matrices of rank 1 for model\.layers\.1\.mlp.*, but has \[\(2, 64\), \(32, 1\)",
    ),
]
SETTINGS = [
    ({"r": "1"}, "values of unknown types"),
    ({"r": 2}, "must have two matrices of rank 2"),
    ({"target_modules": {"a": 1}}, "values of unknown types"),
    ({"layers_to_transform": ["1"]}, "values of unknown types"),
    ({"base_model_name_or_path": 5}, "values of unknown types"),
    ({"alpha_pattern": {"1": 9}}, "plain LoRA.*alpha_pattern"),
    ({"peft_type": "IA3"}, "plain LoRA.*peft_type"),
]


def edit_settings(folder: Path, changes: dict[str, object]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [*DAMAGE, *((partial(edit_settings, changes=changes), told) for changes, told in SETTINGS)],
)
def test_a_damaged_adapter_is_refused_in_words(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    lora = KINDS["lora of rank 1"]()
    lora.build(tiny_model("qwen2"))
    lora.save(tmp_path, base_model="b")
    load_steering(tmp_path)
    damage(tmp_path)
    with pytest.raises(ConfigError, match=told):
        load_steering(tmp_path)
