"""LoReFT: the published formula, its gradient by autograd, and edits of chosen tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steer_lightning import ConfigError, attach
from steer_lightning.losses import PolicyGradient
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.steering import LoReFT, find_result, load_steering
from steer_lightning.steering.reft import orthonormal
from steer_lightning.testing import check_engine, make_prompts, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import why_not_packed
from tests.unit.steering.helpers import IDS, disturb


def by_gram_schmidt(rows: torch.Tensor) -> torch.Tensor:
    found: list[torch.Tensor] = []
    for row in rows:
        for earlier in found:
            row = row - (row @ earlier) * earlier
        found.append(row / row.norm())
    return torch.stack(found)


def published(reft: LoReFT, row: int, h: torch.Tensor) -> torch.Tensor:
    """h + R^T (W h + b - R h), as the paper has it."""
    rotation = by_gram_schmidt(reft.basis[row])
    weight = rotation + reft.difference[row]
    return h + (h @ weight.T + reft.bias[row] - h @ rotation.T) @ rotation


def test_an_edit_by_hand() -> None:
    reft = LoReFT(rank=1)
    reft._create(width=2, num_layers=1)
    with torch.no_grad():
        reft.basis.copy_(torch.tensor([[[3.0, 4.0]]]))  # R = (0.6, 0.8)
        reft.difference.copy_(torch.tensor([[[1.0, 2.0]]]))
        reft.bias.fill_(0.5)
        # h = (1, 2): (W - R) h + b = 5.5, along R
        edit = reft.gate(0, torch.tensor([[[1.0, 2.0]]]))
    torch.testing.assert_close(edit, torch.tensor([[[3.3, 4.4]]]))
    assert reft.plain(0, 0.5).tolist() == [0.5, 0.5]


def test_rows_are_those_of_gram_schmidt() -> None:
    rows = torch.randn(3, 7)
    found = orthonormal(rows)
    torch.testing.assert_close(found, by_gram_schmidt(rows))
    torch.testing.assert_close(found @ found.T, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(orthonormal(found), found)


def test_the_gradient_is_that_of_the_published_formula() -> None:
    reft = LoReFT(rank=3)
    reft._create(width=6, num_layers=2)
    disturb(reft)
    h, slope = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    stream = h.clone().requires_grad_(True)
    (stream + reft.gate(1, stream)).backward(slope)
    ours = [stream.grad, *(parameter.grad for parameter in reft.parameters())]
    again = h.clone().requires_grad_(True)
    expected = torch.autograd.grad(published(reft, 1, again), [again, *reft.parameters()], slope)
    for found, plain in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
        assert plain.abs().max() > 1e-3


def test_start_scale_and_numbers() -> None:
    model, reft = tiny_model("qwen2"), LoReFT(rank=2)
    base = model(IDS).logits
    with attach(model, reft) as attachment:
        assert reft.num_trained == 3 * 2 * (2 * 32 + 1)
        assert torch.equal(model(IDS).logits, base)
        disturb(reft)
        changed = model(IDS).logits
        assert (changed - base).abs().max() > 1e-3
        with torch.no_grad(), attachment.constant():
            torch.testing.assert_close(model(IDS).logits, changed)
        attachment.scale = 0.0
        assert torch.equal(model(IDS).logits, base)
    assert torch.equal(model(IDS).logits, base)
    model = model.to(torch.bfloat16).requires_grad_(False)
    base = model(IDS).logits
    with attach(model, LoReFT()) as attachment:
        assert torch.equal(model(IDS).logits, base)


def test_only_the_chosen_tokens_are_edited() -> None:
    model, reft = tiny_model("qwen2"), LoReFT(layers=[2], tokens="last_prompt")
    base = model(IDS).logits
    with attach(model, reft):
        disturb(reft)
        found = model(IDS).logits
    assert torch.equal(found[:, :-1], base[:, :-1])
    assert not torch.equal(found[:, -1], base[:, -1])


@pytest.mark.parametrize(
    "settings", [{}, {"tokens": "completion", "site": "mlp_output"}, {"layers": [2], "rank": 1}]
)
def test_sampler_and_trainer_agree(settings: dict) -> None:
    reft = LoReFT(**settings)
    policy = tiny_policy("qwen2", reft)
    disturb(reft)
    prompts = make_prompts(["a", "two words", "a longer prompt"])
    engine = DecodeEngine()
    check_engine(engine, policy, prompts)
    assert engine.fallback is None
    assert why_not_packed(policy) is None
    sampling = Sampling(group_size=3, max_new_tokens=6, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    found = []
    for packed in (True, False):
        gradients = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=40, packed=packed
        )
        advantages = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
        totals = gradients.accumulate(gradients.plan(Batch.alone(rollouts, advantages)))
        assert totals.mismatch["max"] < 1e-5
        found.append([parameter.grad.clone() for parameter in reft.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        assert one.abs().max() > 0


def saved(folder: Path, **settings: object) -> tuple[Path, LoReFT]:
    reft = LoReFT(**settings)
    reft.build(tiny_model("qwen2"))
    disturb(reft)
    path = folder / reft.file_name
    reft.save(path, base_model="org/model", step=7)
    return path, reft


def test_the_result_is_loaded_exactly(tmp_path: Path) -> None:
    path, reft = saved(tmp_path, rank=2, layers=[0, 2], tokens="completion", site="mlp_output")
    assert find_result(tmp_path) == path
    loaded = load_steering(path)
    assert isinstance(loaded, LoReFT)
    assert (loaded.layers, loaded.tokens, loaded.site) == ((0, 2), "completion", "mlp_output")
    assert loaded.metadata["step"] == "7"
    for ours, theirs in zip(loaded.parameters(), reft.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    places = {"layers": [0, 2], "tokens": "completion", "site": "mlp_output"}
    again = LoReFT(rank=2, init_from=str(path), **places)
    again.build(tiny_model("qwen2"))
    assert torch.equal(again.basis, reft.basis)
    assert again.basis.requires_grad
    with pytest.raises(ConfigError, match=r"rank = 3: model\.steering\.init_from = .* has 2"):
        LoReFT(rank=3, init_from=str(path), **places).build(tiny_model("qwen2"))
    with pytest.raises(ConfigError, match=r"width 32.* has width 64"):
        loaded.build(tiny_model("qwen2", width=64))


def rewrite(path: Path, change: Callable[[dict, dict], object]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t, m: t.pop("bias"), "must contain LoReFT with basis"),
        (lambda t, m: m.pop("layers"), "no usable layers"),
        (lambda t, m: m.pop("width"), "no usable places"),
        (lambda t, m: m.update(width="0"), "has width 0"),
        (lambda t, m: m.update(layers=json.dumps(["0"])), "has layers"),
        (lambda t, m: m.update(site="nowhere"), "site 'nowhere'"),
        (lambda t, m: m.update(layers="[0, 9]"), r"layers = \[0, 9\]"),
        (lambda t, m: t.update(bias=torch.zeros(3)), "other shapes than its metadata"),
        (lambda t, m: t.update(basis=torch.zeros(3, 4, 31)), r"other shapes .*\['basis'\]"),
        (lambda t, m: t.update(bias=torch.full((3, 4), torch.nan)), "contains NaN or infinity"),
        (lambda t, m: t.update(bias=torch.zeros(3, 4).half()), "must be in float32, but bias"),
        (lambda t, m: t.update({k: x[:, :0] for k, x in t.items()}), "other shapes than its"),
        (lambda t, m: m.update(layers="[]"), "must name at least one layer"),
    ],
)
def test_a_damaged_file_is_refused_in_words(
    tmp_path: Path, change: Callable[[dict, dict], object], told: str
) -> None:
    path, _ = saved(tmp_path)
    rewrite(path, change)
    with pytest.raises(ConfigError, match=told):
        load_steering(path)


def test_bad_settings_are_refused() -> None:
    for settings, told in (
        ({"rank": 0}, r"rank = 0: must be at least 1"),
        ({"layers": [2, 1]}, "ascending order"),
        ({"init_from": "/nowhere"}, "there is no such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            LoReFT(**settings)
    with pytest.raises(ConfigError, match=r"rank = 33: must be at most 32"):
        LoReFT(rank=33).build(tiny_model("qwen2"))
