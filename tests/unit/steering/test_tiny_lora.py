"""TinyLoRA: few numbers, tied over layers, and the same function wherever the result is loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from steer_lightning import ConfigError, attach
from steer_lightning.model.policy import Policy
from steer_lightning.steering import TinyLoRA
from steer_lightning.testing import save_tiny, tiny_model
from tests.unit.steering.helpers import IDS, disturb

PEFTS_OWN = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_the_change_of_a_diagonal_matrix_by_hand() -> None:
    # W = diag(4, 1, 0, ...): its two largest singular values are 4 and 1, with unit vectors
    model = tiny_model("llama")
    weight = model.model.layers[1].self_attn.q_proj.weight
    with torch.no_grad():
        weight.zero_()
        weight[0, 0], weight[1, 1] = 4.0, 1.0
    tiny = TinyLoRA(u=2, target_modules=["q_proj"], layers=[1])
    with attach(model, tiny), torch.no_grad():
        assert tiny.names == ["tinylora_v.0"]
        assert tiny.frozen_names[2].endswith("layers.1.self_attn.q_proj.tinylora_P")
        tiny.get_buffer("frozen_2").copy_(torch.tensor([[[1.0, 0], [0, 0]], [[0, 1.0], [0, 0]]]))
        tiny.numbers[0].copy_(torch.tensor([0.5, 3.0]))
        layer = model.model.layers[1].self_attn.q_proj
        change = layer(torch.eye(32)).T - weight
    # sqrt(4) * 0.5 * sqrt(4) = 2 at (0, 0); sqrt(4) * 3 * sqrt(1) = 6 at (0, 1)
    expected = torch.zeros(32, 32)
    expected[0, 0], expected[0, 1] = 2.0, 6.0
    # the signs of a pair of singular vectors are arbitrary
    torch.testing.assert_close(change.abs(), expected, rtol=1e-5, atol=1e-5)
    assert change[0, 0] > 0


@PEFTS_OWN
def test_peft_reads_what_is_saved(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "base", "qwen2")
    for number, steering in enumerate(
        [TinyLoRA(), TinyLoRA(rank=3, u=4, weight_tying=0.5, layers=[0, 2], seed=7)]
    ):
        policy = Policy(folder, steering=steering)
        policy.load()
        disturb(steering)
        path = tmp_path / f"tiny {number}"
        steering.save(path, base_model=folder, step=3)
        expected = policy.model(IDS).logits
        model = peft.AutoPeftModelForCausalLM.from_pretrained(path)
        torch.testing.assert_close(model(IDS).logits, expected)
        assert steering.first_layer == 0


def test_the_frozen_matrices_of_the_file_count_and_not_those_of_the_machine(tmp_path: Path) -> None:
    model, tiny = tiny_model("qwen2"), TinyLoRA()
    with attach(model, tiny):
        disturb(tiny)
    tiny.save(tmp_path, base_model="b")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    # another machine might find the opposite sign for each pair of singular vectors
    flipped = {k: -t if "tinylora_A" in k or "tinylora_B" in k else t for k, t in tensors.items()}
    save_file(flipped, file)
    with attach(model, tmp_path):
        same = model(IDS).logits
    half = {
        k: t * torch.tensor([1.0, -1.0]) if "tinylora_B" in k else t for k, t in tensors.items()
    }
    save_file(half, file)
    with attach(model, tmp_path):
        other = model(IDS).logits
    with attach(model, tiny):
        expected = model(IDS).logits
    assert torch.equal(same, expected)
    assert not torch.allclose(other, expected, atol=1e-4)


def test_a_checkpoint_has_the_frozen_matrices_of_its_run() -> None:
    model, first, second = tiny_model("qwen2"), TinyLoRA(), TinyLoRA()
    with attach(model, first):
        disturb(first)
        first.get_buffer("frozen_1").mul_(-1)  # as if the run had found another sign
        expected = model(IDS).logits
        state = copy.deepcopy(first.state_dict())
    with attach(model, second) as attachment:
        second.load_state_dict(state)
        assert torch.equal(model(IDS).logits, expected)
        attachment.scale = 0.0
        base = model(IDS).logits
    assert torch.equal(base, model(IDS).logits)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # of PEFT
def test_layers_of_gpt2_have_their_weights_the_other_way_round(tmp_path: Path) -> None:
    model, tiny = tiny_model("gpt2"), TinyLoRA()
    base = model(IDS).logits
    with attach(model, tiny):
        assert torch.equal(model(IDS).logits, base)
        disturb(tiny)
        expected = model(IDS).logits
    tiny.save(tmp_path, base_model="b")
    with attach(model, tmp_path):
        assert torch.equal(model(IDS).logits, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"u": 0}, r"model\.steering\.u = 0: must be at least 1"),
        ({"weight_tying": 1.5}, r"weight_tying = 1\.5: must be in \[0, 1\]"),
        ({"rank": 0}, r"model\.steering\.rank = 0"),
        ({"init_from": "/nowhere"}, r"init_from = '/nowhere': there is no such folder"),
    ],
)
def test_settings_are_checked_before_a_model_is_known(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TinyLoRA(**settings)


def test_what_does_not_fit_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ConfigError, match=r"rank = 17: must be at most 16, .* of model\.layers\.0"):
        TinyLoRA(rank=17).build(model)
    assert not any("tinylora" in name for name in model.state_dict())
    tiny = TinyLoRA(target_modules=["q_proj"])
    tiny.build(model)
    with pytest.raises(ConfigError, match=r"never attached"):
        tiny.save(Path("nowhere"), base_model="b")
