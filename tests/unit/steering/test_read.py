"""READ: the recurrence by hand, its logits and gradients by the plain formula, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steer_lightning import ConfigError, attach
from steer_lightning.evaluation.ablation import arms_of
from steer_lightning.losses import PolicyGradient
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.steering import READ, find_result, find_vectors, load_steering, load_vectors
from steer_lightning.steering.row_vectors import steers_rows
from steer_lightning.testing import check_engine, make_prompts, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import can_skip_layers, why_not_packed
from tests.unit.steering.helpers import IDS


def disturb(read: READ) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in read.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def streams(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of all layers in a plain pass; the last hidden state is behind the norm."""
    caught: list[torch.Tensor] = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        output = model(ids, output_hidden_states=True)
    handle.remove()
    return [*output.hidden_states[1:-1], caught[0]]


def published(read: READ, model: Any, phis: list[torch.Tensor], scale: float) -> torch.Tensor:
    """The logits, by one loop over tokens and layers."""
    rows = []
    for row in range(phis[0].shape[0]):
        tokens = []
        for token in range(phis[0].shape[1]):
            state = torch.zeros(read.rank)
            for layer in read.layers:
                phi = phis[layer][row, token]
                phi = phi / (phi.norm() / read.width**0.5)
                state = torch.tanh(read.down @ phi + read.recurrent @ state + read.bias)
            last = phis[-1][row, token]
            unit = last.norm() / read.width**0.5
            tokens.append(last + scale * unit * read.up @ state)
        rows.append(torch.stack(tokens))
    logits: torch.Tensor = model.lm_head(model.model.norm(torch.stack(rows)))
    return logits


def test_a_token_by_hand() -> None:
    read = READ(rank=1)
    read._create(width=2, num_layers=2)
    with torch.no_grad():
        read.down.copy_(torch.tensor([[1.0, 0.5]]))
        read.recurrent.fill_(2.0)
        read.bias.fill_(-0.1)
        read.up.copy_(torch.tensor([[3.0], [-1.0]]))
        # phi_1 = (3, 4), whose root mean square is 3.5355: (0.8485, 1.1314)
        first = read.next_state(torch.tensor([[[3.0, 4.0]]]), None)
        torch.testing.assert_close(first, torch.tensor([[[1.31421]]]).tanh())
        # phi_2 = (0, -2), whose root mean square is 1.4142: (0, -1.4142)
        second = read.next_state(torch.tensor([[[0.0, -2.0]]]), first)
        torch.testing.assert_close(second, (2 * first - 0.1 - 0.707107).tanh())
        found = read.correction(torch.tensor([[[0.0, -2.0]]]), second)
        torch.testing.assert_close(found, 1.414214 * second * torch.tensor([3.0, -1.0]))
        nothing = read.next_state(torch.zeros(1, 1, 2), None)
    torch.testing.assert_close(nothing, torch.tensor([[[-0.1]]]).tanh())


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("layers", ["all", [0, 1], [1]])
def test_logits_and_gradients_are_those_of_the_formula(
    architecture: str, layers: str | list[int]
) -> None:
    model, read = tiny_model(architecture).requires_grad_(False), READ(rank=3, layers=layers)
    phis = streams(model, IDS)
    read.build(model)
    disturb(read)
    expected = published(read, model, phis, scale=0.5)
    with attach(model, read, scale=0.5):
        found = model(IDS).logits
    torch.testing.assert_close(found, expected)
    assert (model(IDS).logits - expected).abs().max() > 0.01
    slope = torch.randn(expected.shape)
    # with one layer, W_state multiplies nothing
    used = [p for p in read.parameters() if len(read.layers) > 1 or p is not read.recurrent]
    ours = torch.autograd.grad(found, used, slope)
    theirs = torch.autograd.grad(expected, used, slope, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        assert other.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_start_scale_and_numbers(dtype: torch.dtype) -> None:
    model, read = tiny_model("qwen2").to(dtype).requires_grad_(False), READ(rank=2)
    base = model(IDS).logits
    with attach(model, read) as attachment:
        assert read.num_trained == 2 * (2 * 32 + 2 + 1)
        assert read.metrics() == {"norm": 0.0}
        assert torch.equal(model(IDS).logits, base)
        disturb(read)
        changed = model(IDS).logits
        assert (changed - base).abs().max() > 1e-2
        attachment.scale = 0.0
        assert torch.equal(model(IDS).logits, base)
        attachment.scale, attachment.is_paused = 1.0, True
        assert torch.equal(model(IDS).logits, base)
        attachment.is_paused = False
        assert torch.equal(model(IDS).logits, changed)
    assert torch.equal(model(IDS).logits, base)


def test_no_gradient_passes_through_a_layer() -> None:
    model, read = tiny_model("llama").requires_grad_(False), READ()
    needs: list[bool] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: needs.append(args[0].requires_grad))
    with attach(model, read):
        needs.clear()
        assert model(IDS).logits.requires_grad
    assert needs == [False, False, False]


@pytest.mark.parametrize(
    ("kind", "layers"),
    [(DecodeEngine, "all"), (DecodeEngine, [0, 1]), (DecodeEngine, [2]), (GenerateEngine, "all")],
)
def test_sampler_and_trainer_agree(kind: Callable[[], Any], layers: str | list[int]) -> None:
    policy = tiny_policy("qwen2", READ(rank=3, layers=layers))
    disturb(policy.steering)
    prompts = make_prompts(["a", "two words", "a longer prompt"])
    engine = kind()
    check_engine(engine, policy, prompts)
    assert getattr(engine, "fallback", None) is None
    assert why_not_packed(policy) is None
    assert policy.steering.first_layer == (2 if layers == [2] else 0)
    assert can_skip_layers(policy) == (layers == [2])
    sampling = Sampling(group_size=3, max_new_tokens=6, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    found = []
    for packed, checkpointed in ((True, False), (False, False), (True, True), (False, True)):
        gradients = BatchGradient(
            policy=policy,
            loss=PolicyGradient(),
            temperature=1.0,
            max_tokens=40,
            packed=packed,
            activation_checkpointing=checkpointed,
        )
        advantages = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
        totals = gradients.accumulate(gradients.plan(Batch.alone(rollouts, advantages)))
        assert totals.mismatch["max"] < 1e-5
        found.append(
            {
                name: parameter.grad.clone()
                for name, parameter in policy.steering.named_parameters()
                if parameter.grad is not None
            }
        )
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=1e-5)
            assert gradient.abs().max() > 0 or (layers == [2] and name == "recurrent")


# ---- what can't be right is refused


def test_only_vectors_are_exported_looked_at_and_steered_row_by_row(tmp_path: Path) -> None:
    path, read = saved(tmp_path)
    with pytest.raises(ConfigError, match="contains no steering_vectors"):
        find_vectors(tmp_path)
    with pytest.raises(ConfigError, match=r"read\.safetensors"):
        load_vectors(path)
    assert not steers_rows(read)
    with pytest.raises(ConfigError, match="steering is READ, of which no layer can be left out"):
        arms_of(None, "each", read)


def test_bad_settings_are_refused() -> None:
    for settings, told in (
        ({"rank": 0}, r"rank = 0: must be at least 1"),
        ({"layers": [2, 1]}, "ascending order"),
        ({"init_from": "/nowhere"}, "there is no such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            READ(**settings)
    with pytest.raises(ConfigError, match=r"rank = 33: must be at most 32"):
        READ(rank=33).build(tiny_model("qwen2"))


# ---- the file


def saved(folder: Path, **settings: Any) -> tuple[Path, READ]:
    read = READ(**settings)
    read.build(tiny_model("qwen2"))
    disturb(read)
    path = folder / read.file_name
    read.save(path, base_model="org/model", step=7)
    return path, read


def test_the_result_is_loaded_exactly(tmp_path: Path) -> None:
    path, read = saved(tmp_path, rank=2, layers=[0, 2])
    assert find_result(tmp_path) == path
    loaded = load_steering(path)
    assert isinstance(loaded, READ)
    assert (loaded.rank, loaded.layers, loaded.num_layers) == (2, (0, 2), 3)
    assert (loaded.metadata["step"], loaded.facts()) == ("7", read.facts())
    for ours, theirs in zip(loaded.parameters(), read.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    again = READ(rank=2, layers=[0, 2], init_from=str(path))
    again.build(tiny_model("qwen2"))
    assert torch.equal(again.down, read.down)
    assert again.down.requires_grad
    with pytest.raises(ConfigError, match=r"rank = 3: model\.steering\.init_from = .* has 2"):
        READ(rank=3, layers=[0, 2], init_from=str(path)).build(tiny_model("qwen2"))
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
        (lambda t, m: t.pop("bias"), "must contain READ with down"),
        (lambda t, m: m.pop("layers"), "no usable layers"),
        (lambda t, m: m.update(layers=json.dumps(["0"])), "has layers"),
        (lambda t, m: m.update(layers="[0, 9]"), r"layers = \[0, 9\]"),
        (lambda t, m: t.update(down=torch.zeros(3)), "do not fit each other"),
        (lambda t, m: t.update(up=torch.zeros(31, 8)), r"do not fit each other: \['up'\]"),
    ],
)
def test_a_damaged_file_is_refused_in_words(
    tmp_path: Path, change: Callable[[dict, dict], object], told: str
) -> None:
    path, _ = saved(tmp_path)
    rewrite(path, change)
    with pytest.raises(ConfigError, match=told):
        load_steering(path)
