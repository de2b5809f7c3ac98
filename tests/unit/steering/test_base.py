"""Full fine-tuning, LoRA, biases, singular values: the same loop, the same promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bitsandbytes as bnb
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from steer_lightning import ConfigError, SteeringModule, attach
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.model.sharding import FlatSharding
from steer_lightning.optim import check_optimizer
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.steering import (
    BitFit,
    FullFinetune,
    LoRA,
    Steering,
    VectorFit,
    load_steering,
)
from steer_lightning.testing import check_engine, make_prompts, save_tiny, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.forward import why_not_packed
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.types import Rollouts

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
Make = Callable[[], Steering]
KINDS: dict[str, Make] = {
    "full": FullFinetune,
    "biases": BitFit,
    "vectorfit": VectorFit,
    "lora": LoRA,
    "lora of rank 1": partial(LoRA, rank=1, alpha=3.0, target_modules=["down_proj"], layers=[1, 2]),
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def disturb(steering: Steering) -> None:
    for parameter in steering.parameters():
        parameter.data.normal_(std=0.03)


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
    steering.build(model)
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
    reason = why_not_packed(policy)
    assert (reason is None) == (kind != "full"), "its head has no gradient in the packed way"
    sampling = Sampling(group_size=3, max_new_tokens=6, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    advantages = torch.randn(3, 3)

    expected = by_the_chain_rule(policy, steering, rollouts, advantages)
    for settings in ({}, {"activation_checkpointing": True}, {"packed": False}):
        gradients = BatchGradient(
            **{
                "loss": PolicyGradient(),
                "temperature": 1.0,
                "max_tokens": 40,
                "packed": reason is None,
                **settings,
            }
        )
        step = gradients.plan(policy, Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(policy, step)
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
    steering.build(model)
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
    settings = {"rank": 1, "alpha": 3.0, "target_modules": ["down_proj"], "layers": [1, 2]}
    again = type(steering)(**(settings if "rank 1" in kind else {}), init_from=str(path))
    again.build(model)
    for ours, theirs in zip(again.parameters(), steering.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_peft_reads_what_lora_saves(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "base", "qwen2")
    for kind in ("lora", "lora of rank 1"):
        policy = Policy(folder, steering=KINDS[kind]())
        policy.load()
        disturb(policy.steering)
        policy.steering.save(tmp_path / kind, base_model=folder, step=3)
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


def edit_adapter(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


FIRST = "base_model.model.model.layers.1.mlp.down_proj"
DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "not a readable safetens"),
    (lambda f: edit_adapter(f, lambda t: t.pop(f"{FIRST}.lora_B.weight")), "no two matrices"),
    (lambda f: edit_adapter(f, lambda t: t.update(x=torch.ones(1))), "adapter_model.* has 'x'"),
    (
        lambda f: edit_adapter(
            f, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(2, 64)})
        ),
        r"no two matrices of rank 1 for model\.layers\.1\.mlp.*, but \[\(2, 64\), \(32, 1\)",
    ),
]
SETTINGS = [
    ({"r": "1"}, "values of unknown types"),
    ({"r": 2}, "no two matrices of rank 2"),
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


def test_tied_weights_are_changed_once_and_everywhere() -> None:
    config = tiny_model("gemma3").config
    assert config.tie_word_embeddings
    model, steering = tiny_model("gemma3"), FullFinetune()
    with attach(model, steering):
        assert "lm_head.weight" not in steering.names
        change = dict(zip(steering.names, steering.changes, strict=True))[
            "model.embed_tokens.weight"
        ]
        change.data[7] = 0.1
        found = model(IDS).logits
    model.model.embed_tokens.weight.data[7] += 0.1
    torch.testing.assert_close(model(IDS).logits, found)
    assert steering.trains_head


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


def test_an_8_bit_optimizer_that_would_keep_32_bits_is_refused() -> None:
    steering = FullFinetune()
    steering.build(tiny_model("qwen2"))
    factory = partial(bnb.optim.AdamW8bit, lr=1e-3)
    with pytest.raises(ConfigError, match=r"min_8bit_size = 4096.*steering = FullFinetune.*16 el"):
        check_optimizer(factory, steering, torch.device("cpu"))
    check_optimizer(partial(factory, min_8bit_size=0), steering, torch.device("cpu"))


def test_checkpoints_hold_what_is_trained_alone(tmp_path: Path) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "qwen2"), steering=LoRA(rank=1))
    module.configure_model()
    names = {name.rsplit(".", 1)[0] for name in module.state_dict()}
    assert names == {"gradient_clip", "policy.steering.down", "policy.steering.up"}
    count = sum(p.numel() for p in tiny_model("qwen2").parameters())
    assert module.policy.sharding.num_parameters(module.policy.model) == count
