"""What every kind of steering promises: the same loop, whatever is trained."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError, attach
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.model.sharding import FlatSharding
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.steering import (
    BitFit,
    FullFinetune,
    LoRA,
    SMoA,
    Steering,
    TinyLoRA,
    VectorFit,
    VeRA,
    load_steering,
)
from steer_lightning.testing import check_engine, make_prompts, save_tiny, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import why_not_packed
from steer_lightning.types import Rollouts
from tests.unit.steering.helpers import (
    IDS,
    KINDS,
    Make,
    by_formula,
    by_kind,
    disturb,
    smoa_by_formula,
)


def numbers(architecture: str, steering: Steering) -> int:
    steering.build(tiny_model(architecture))
    return steering.num_trained


def test_trained_numbers_by_hand() -> None:
    # Qwen2, 3 layers, width 32, 64 in the MLP, 2 key-value heads of 8, V = 259, tied nothing
    attention = [(32, 32), (32, 16), (32, 16), (32, 32)]
    mlp = [(32, 64), (32, 64), (64, 32)]
    matrices = attention + mlp
    biases = 32 + 16 + 16
    full = 2 * 259 * 32 + 3 * (sum(a * b for a, b in matrices) + biases + 2 * 32) + 32
    assert sum(p.numel() for p in tiny_model("qwen2").parameters()) == full
    assert numbers("qwen2", FullFinetune()) == full
    assert numbers("qwen2", BitFit()) == 3 * biases
    assert numbers("qwen2", VectorFit()) == 3 * (sum(min(a, b) for a, b in matrices) + biases)
    assert numbers("qwen2", LoRA(rank=4)) == 3 * 4 * sum(a + b for a, b in matrices)
    assert numbers("qwen2", KINDS["lora of rank 1"]()) == 2 * (64 + 32)
    assert numbers("qwen2", TinyLoRA()) == 13
    assert numbers("qwen2", TinyLoRA(u=2, weight_tying=0.0)) == 3 * 7 * 2
    assert numbers("qwen2", KINDS["tiny lora, three vectors"]()) == 3 * 2
    assert numbers("qwen2", SMoA(rank=2, parts=3)) == 3 * 3 * 2 * sum(a + b for a, b in matrices)
    assert numbers("qwen2", VeRA(rank=24)) == 3 * (7 * 24 + sum(b for _, b in matrices))


@by_kind
def test_the_start_and_scale_0_are_the_base_bit_for_bit(kind: str) -> None:
    model, steering = tiny_model("qwen2"), KINDS[kind]()
    base, names = model(IDS).logits, set(model.state_dict())
    with attach(model, steering) as attachment:
        assert torch.equal(model(IDS).logits, base)
        disturb(steering)
        changed = model(IDS).logits
        assert (changed - base).abs().max() > 1e-3
        with torch.no_grad(), attachment.constant():
            torch.testing.assert_close(model(IDS).logits, changed)
        attachment.scale = 0.0
        assert torch.equal(model(IDS).logits, base)
        attachment.scale = 1.0
        assert torch.equal(model(IDS).logits, changed)
    assert torch.equal(model(IDS).logits, base)
    assert set(model.state_dict()) == names
    with attach(model, steering):
        assert torch.equal(model(IDS).logits, changed)


def plainly(model: nn.Module, steering: Steering, scale: float) -> nn.Module:
    """Another model whose own weights are what the kind says."""
    other = tiny_model("qwen2")
    other.load_state_dict(model.state_dict())
    weights = dict(other.named_parameters())
    with torch.no_grad():
        if isinstance(steering, LoRA):
            for name, down, up in zip(steering.names, steering.down, steering.up, strict=True):
                weights[f"{name}.weight"] += scale * steering.alpha / steering.rank * (up @ down)
            return other
        if isinstance(steering, (TinyLoRA, VeRA)):
            shapes = {name: weight.shape for name, weight in weights.items()}
            for name, change in by_formula(steering, shapes).items():
                weights[name] += scale * change
            return other
        if isinstance(steering, SMoA):
            for name, change in smoa_by_formula(steering, weights).items():
                weights[name] += scale * change
            return other
        for name, change in zip(steering.names, steering.changes, strict=True):
            weight = weights[name]
            if isinstance(steering, VectorFit) and weight.dim() == 2:
                left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
                weight.copy_(left @ torch.diag(sizes + scale * change) @ right)
            else:
                weight += scale * change
    return other


@by_kind
def test_what_is_computed_is_what_merged_weights_compute(kind: str) -> None:
    model, steering = tiny_model("qwen2"), KINDS[kind]()
    with attach(model, steering):
        disturb(steering)
    expected = [plainly(model, steering, scale)(IDS).logits for scale in (1.0, 0.5)]
    with attach(model, steering) as attachment:
        torch.testing.assert_close(model(IDS).logits, expected[0], rtol=1e-4, atol=1e-5)
        attachment.scale = 0.5
        torch.testing.assert_close(model(IDS).logits, expected[1], rtol=1e-4, atol=1e-5)


def by_the_chain_rule(
    policy: Policy, steering: Steering, rollouts: Rollouts, advantages: torch.Tensor
) -> list[torch.Tensor]:
    """From the gradients of a plain model's own weights, which autograd finds, a row at a time."""
    model = plainly(tiny_model("qwen2"), steering, 1.0).requires_grad_(True)
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        ids = torch.tensor([prompt + completion.tolist()])
        logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        total = total + advantage * logprobs[range(len(completion)), completion].sum()
    (-total / advantages.numel()).backward()
    weights = dict(model.named_parameters())
    if isinstance(steering, LoRA):
        slopes = [weights[f"{name}.weight"].grad for name in steering.names]
        factor = steering.alpha / steering.rank
        pairs = list(zip(steering.down, steering.up, strict=True))
        of_down = [factor * up.T @ g for g, (_, up) in zip(slopes, pairs, strict=True)]
        return of_down + [factor * g @ down.T for g, (down, _) in zip(slopes, pairs, strict=True)]
    if isinstance(steering, (SMoA, TinyLoRA, VeRA)):
        base = dict(tiny_model("qwen2").named_parameters())
        shapes = {name: weight.shape for name, weight in weights.items()}
        changes = (
            smoa_by_formula(steering, base)
            if isinstance(steering, SMoA)
            else by_formula(steering, shapes)
        )
        slopes = [weights[name].grad for name in changes]
        return list(
            torch.autograd.grad(list(changes.values()), list(steering.parameters()), slopes)
        )
    found = []
    for name in steering.names:
        slope = weights[name].grad
        if isinstance(steering, VectorFit) and slope.dim() == 2:
            base = dict(tiny_model("qwen2").named_parameters())[name]
            left, _, right = torch.linalg.svd(base.detach(), full_matrices=False)
            slope = (left.T @ slope @ right.T).diagonal()
        found.append(slope)
    return found


@by_kind
def test_sampler_and_trainer_agree_and_the_gradient_is_autograds(kind: str) -> None:
    steering = KINDS[kind]()
    policy = tiny_policy("qwen2", steering)
    base, crc = tiny_policy("qwen2").base_sha256(), tiny_policy("qwen2").checksum
    disturb(steering)
    prompts = make_prompts(["a", "two words", "a longer prompt"])
    engine = DecodeEngine()
    check_engine(engine, policy, prompts)
    assert engine.fallback is None
    if kind == "full":
        check_engine(GenerateEngine(), policy, prompts)
    assert why_not_packed(policy) is None
    sampling = Sampling(group_size=3, max_new_tokens=6, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    advantages = torch.randn(3, 3)

    expected = by_the_chain_rule(policy, steering, rollouts, advantages)
    for settings in ({}, {"activation_checkpointing": True}, {"packed": False}):
        gradients = BatchGradient(
            **{
                "policy": policy,
                "loss": PolicyGradient(),
                "temperature": 1.0,
                "max_tokens": 40,
                "packed": True,
                **settings,
            }
        )
        step = gradients.plan(Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(step)
        assert totals.mismatch["max"] < 1e-5
        for parameter, gradient in zip(steering.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    assert (policy.base_sha256(), policy.checksum) == (base, crc)


@by_kind
def test_a_base_of_16_bits_is_trained_in_32(kind: str) -> None:
    model, steering = tiny_model("qwen2").to(torch.bfloat16).requires_grad_(False), KINDS[kind]()
    base = model(IDS).logits
    with attach(model, steering):
        assert torch.equal(model(IDS).logits, base)
        disturb(steering)
        model(IDS).logits.float().pow(2).mean().backward()
    for parameter in steering.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().max() > 0
    assert all(p.grad is None for p in model.parameters())


@by_kind
def test_the_result_is_loaded_exactly(kind: str, tmp_path: Path) -> None:
    model, steering = tiny_model("qwen2"), KINDS[kind]()
    with attach(model, steering):
        disturb(steering)
    path = tmp_path / steering.file_name
    for _ in range(2):  # an existing one is replaced
        steering.save(path, base_model="org/model", revision="abc", step=7)
    with attach(model, steering):
        expected = model(IDS).logits
    loaded = load_steering(path)
    assert type(loaded) is type(steering)
    assert loaded.metadata["base_model"] == "org/model"
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with attach(model, path):
        assert torch.equal(model(IDS).logits, expected)
    with pytest.raises(ConfigError, match=r"model\.layers|weight"):
        loaded.build(tiny_model("qwen2", width=64))
    settings = KINDS[kind].keywords if isinstance(KINDS[kind], partial) else {}
    again = type(steering)(**settings, init_from=str(path))
    again.build(model)
    for ours, theirs in zip(again.parameters(), steering.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad


@pytest.mark.parametrize(
    ("architecture", "make", "message"),
    [
        ("llama", BitFit, r"model\.steering = 'BitFit': model\.base, a LlamaFor.* no biases"),
        ("llama", lambda: LoRA(rank=33), r"rank = 33.*at most 16.*target_modules = 'all-linear'"),
        ("llama", lambda: LoRA(target_modules=["down"]), r"target_modules.*model\.base, a Llama"),
        ("llama", lambda: LoRA(layers=[3]), r"layers = \[3\].*0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_weights_are_read(
    tmp_path: Path, architecture: str, make: Make, message: str
) -> None:
    folder = save_tiny(tmp_path, architecture)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=message):
        Policy(folder, steering=make()).load()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_sharded_base_is_not_changed(kind: str, tmp_path: Path) -> None:
    policy = Policy(save_tiny(tmp_path, "qwen2"), steering=KINDS[kind]())
    with pytest.raises(ConfigError, match=r"model\.steering = '(Full|LoRA).*trainer\.strategy"):
        policy.load(FlatSharding(torch.device("cpu"), None, {}))  # type: ignore[arg-type]
