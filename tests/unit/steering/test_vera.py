"""VeRA: two vectors for each layer between matrices that all layers share."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.model.policy import Policy
from steer_lightning.steering import VeRA
from steer_lightning.testing import save_tiny, tiny_model
from tests.unit.steering.helpers import IDS, disturb


def test_the_output_of_a_layer_by_hand() -> None:
    model, vera = tiny_model("llama"), VeRA(rank=2, target_modules=["q_proj"], layers=[1])
    layer = model.model.layers[1].self_attn.q_proj
    x = torch.zeros(32)
    x[:2] = torch.tensor([1.0, 2.0])
    base = layer(x)
    with attach(model, vera), torch.no_grad():
        assert [name[-8:] for name in vera.names] == ["lambda_b", "lambda_d"]
        assert vera.frozen_names == ["vera_A", "vera_B"]
        assert torch.equal(vera.numbers[1], torch.tensor([0.1, 0.1]))
        down, up = vera.get_buffer("frozen_0"), vera.get_buffer("frozen_1")
        down.zero_()[:, :2] = torch.tensor([[3.0, 1.0], [0.0, 1.0]])  # A x = (5, 2)
        up.zero_()[0] = torch.tensor([1.0, 1.0])
        vera.numbers[1].copy_(torch.tensor([2.0, 10.0]))  # d * A x = (10, 20), of which B makes 30
        vera.numbers[0].zero_()[0] = 0.5
        change = model.model.layers[1].self_attn.q_proj(x) - base
    assert change[0] == pytest.approx(15.0, abs=1e-5)
    assert not change[1:].any()


def test_all_layers_share_the_random_matrices_and_the_seed_decides() -> None:
    first, same, other = (VeRA(rank=4, seed=seed) for seed in (1, 1, 2))
    for vera in (first, same, other):
        with attach(tiny_model("qwen2"), vera):
            pass
    # the widest inputs are those of down_proj (64), the widest outputs those of gate_proj (64)
    assert [tuple(t.shape) for t in first.tensors()[-2:]] == [(4, 64), (64, 4)]
    assert torch.equal(first.tensors()[-1], same.tensors()[-1])
    assert not torch.equal(first.tensors()[-1], other.tensors()[-1])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_peft_reads_what_is_saved(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "base", "qwen2")
    policy = Policy(folder, steering=VeRA(rank=5, layers="1-2", seed=3))
    policy.load()
    disturb(policy.steering)
    assert policy.steering.first_layer == 1
    policy.steering.save(tmp_path / "vera", base_model=folder)
    expected = policy.model(IDS).logits
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "vera")
    torch.testing.assert_close(model(IDS).logits, expected)


def test_a_start_without_any_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"d_initial = 0: must not be 0"):
        VeRA(d_initial=0)
