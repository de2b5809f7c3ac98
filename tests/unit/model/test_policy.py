"""The policy: what it reads, measures, checks, and leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from steer_lightning import ConfigError, SteeringModule, save_vectors
from steer_lightning.model import policy as policy_file
from steer_lightning.model.hub import pad_token_id
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import (
    READ,
    AdaptiveVectors,
    BitFit,
    FullFinetune,
    LoRA,
    LoReFT,
    LowRankVectors,
    ProjectedVectors,
    SMoA,
    Steering,
    SteeringVectors,
    TinyLoRA,
    VectorFit,
    VeRA,
)
from steer_lightning.testing import ARCHITECTURES, make_prompts, save_tiny, tiny_model, tiny_policy

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
ALL = sorted(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ALL)
def test_activation_checkpointing_gives_the_same_gradient(architecture: str) -> None:
    gradients, vectors = [], torch.randn(3, 32)
    for enabled in (False, True):
        policy = tiny_policy(architecture)
        policy.steering.set_vectors(vectors)
        with policy.checkpointed(enabled):
            policy.logits(IDS, torch.ones_like(IDS), 4).float().pow(2).mean().backward()
        gradients.append(policy.steering.weight.grad)
        assert not any(module.training for module in policy.model.modules())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-8)


def test_checkpointing_recomputes_the_layers() -> None:
    policy = tiny_policy()
    calls = []
    policy.layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    with policy.checkpointed():
        policy.logits(IDS, torch.ones_like(IDS), 4).float().sum().backward()
    assert len(calls) == 2


def test_the_base_stays_in_eval_mode() -> None:
    policy = tiny_policy("gpt2")
    policy.train()
    assert policy.training
    assert not any(module.training for module in policy.model.modules())


def test_units_do_not_depend_on_how_prompts_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt.token_ids for prompt in make_prompts(["a", "two words", "a longer prompt"])]
    units = []
    for tokens in (8192, 20, 1):
        monkeypatch.setattr(policy_file, "UNIT_TOKENS", tokens)
        policy = tiny_policy("qwen2")
        policy.measure_units(prompts)
        units.append(policy.steering.unit)
    torch.testing.assert_close(units[1], units[0])
    torch.testing.assert_close(units[2], units[0])


def test_policy_measures_once_and_keeps_what_it_started_from(tmp_path) -> None:
    start = torch.randn(3, 32)
    save_vectors(start, tmp_path / "v.safetensors", base_model="tiny")
    policy = tiny_policy(steering=SteeringVectors(init_from=str(tmp_path / "v.safetensors")))
    policy.measure_units([(1, 5, 6), (1, 7)])
    unit = policy.steering.unit.clone()
    fresh = tiny_policy()
    fresh.measure_units([(1, 5, 6), (1, 7)])
    torch.testing.assert_close(unit, fresh.steering.unit)  # measured without the vectors
    torch.testing.assert_close(policy.steering.vectors, start)
    policy.measure_units([(9, 9, 9)])
    assert torch.equal(policy.steering.unit, unit)


def test_a_base_in_float16_is_refused_before_its_weights_are_read(tmp_path) -> None:
    folder = save_tiny(tmp_path, "llama")
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.float16
    config.save_pretrained(folder)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"stored in float16.*bfloat16 or float32"):
        Policy(folder).load()


def test_prompt_and_completion_must_fit_the_positions() -> None:
    policy = tiny_policy()
    policy.model_config = policy.model.config
    prompts = make_prompts(["a", "four"])  # 5 tokens with BOS
    policy.check_prompts(prompts, 251, "key")
    with pytest.raises(ConfigError, match=r"key = 252: .* 5 tokens .* 256 positions.*251 or less"):
        policy.check_prompts(prompts, 252, "key")


def test_prompts_hold_no_tokens_that_the_base_lacks() -> None:
    policy = tiny_policy()
    policy.model_config = policy.model.config
    size = policy.model.config.vocab_size
    (prompt,) = make_prompts(["a"])
    policy.check_prompts([replace(prompt, token_ids=(1, size - 1))], 1, "key")
    policy.tokenizer.add_tokens(["<think>"])
    beyond = replace(prompt, id=4, token_ids=(1, size, 5))
    told = rf'"<think>" as token {size}, but .* has the tokens 0 to {size - 1} \(problem 5\)'
    with pytest.raises(ConfigError, match=told):
        policy.check_prompts([prompt, beyond], 1, "key")


def test_a_padding_token_that_was_added_to_the_tokenizer_alone_is_not_used() -> None:
    policy = tiny_policy()
    policy.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert policy.tokenizer.pad_token_id == policy.model.config.vocab_size
    policy.adopt(tiny_model())
    assert policy.pad_token_id == policy.eos_token_ids[0]
    assert pad_token_id(policy.tokenizer, (), 259) == 0
    assert pad_token_id(policy.tokenizer, (), 260) == 259
    engine = GenerateEngine()
    engine.setup(policy)
    found = engine.generate(
        make_prompts(["a", "four"]), Sampling(group_size=1, max_new_tokens=2), seed=0, step=0
    )
    assert len(found.texts) == 2


class Wrapper(torch.nn.Module):
    """Takes any arguments, as the wrapper of FSDP1 does."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or "inner" not in self._modules:
            return super().__getattr__(name)
        return getattr(self.inner, name)

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.inner(*args, **options)


def test_positions_of_padded_rows_are_told_through_a_wrapper() -> None:
    policy = tiny_policy()
    policy.adopt(Wrapper(tiny_model("gpt2")))  # its positions are absolute
    alone = policy.logits(IDS, torch.ones_like(IDS), 2)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], 1)
    found = policy.logits(padded, (padded > 0).long(), 2)
    torch.testing.assert_close(found, alone)


def test_a_damaged_weights_file_is_one_message(tmp_path) -> None:
    folder = save_tiny(tmp_path, "llama")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"model.base = .* can't be loaded"):
        Policy(folder).load()


def test_layers_below_the_first_steered_one_have_no_graph() -> None:
    policy = tiny_policy("llama", SteeringVectors(layers=[2]))
    needs = []
    for layer in policy.layers:
        layer.register_forward_hook(lambda m, x, y: needs.append(y.requires_grad))
    policy.logits(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4), 1)
    assert needs == [False, False, True]


def test_a_policy_is_cheap_until_it_is_loaded() -> None:
    policy = tiny_policy()
    engine = GenerateEngine()
    with pytest.raises(RuntimeError, match="setup"):
        engine.generate(make_prompts(["a"]), Sampling(), seed=0, step=0)
    engine.setup(policy)
    assert SteeringModule().policy.model is None


# ---- a model that moves after something was attached to it, as Lightning moves it to a GPU

EVERY_KIND: dict[str, Callable[[], Steering]] = {
    "vectors": SteeringVectors,
    "prompts alone": partial(SteeringVectors, tokens="prompt", site="mlp_output"),
    "gated": AdaptiveVectors,
    "mixtures": LowRankVectors,
    "fixed directions": partial(LowRankVectors, directions="random"),
    "projected": ProjectedVectors,
    "lora": LoRA,
    "tiny lora": TinyLoRA,
    "vera": partial(VeRA, rank=8),
    "biases": BitFit,
    "singular values": VectorFit,
    "parts": partial(SMoA, rank=2),
    "edits": LoReFT,
    "side network": READ,
    "full": FullFinetune,
}
by_kind = pytest.mark.parametrize("kind", EVERY_KIND)


def disturbed(kind: str) -> Policy:
    """A policy on the CPU, with something learned that acts on it."""
    policy = tiny_policy("qwen2", EVERY_KIND[kind]())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.steering.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.03)
    return policy


@by_kind
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_policy_runs_where_it_was_moved_to(kind: str, is_used_before: bool, device: str) -> None:
    """The meta device is another one than the CPU: torch refuses a product of the two."""
    policy = disturbed(kind)
    if is_used_before:
        policy.model(IDS)
    policy.to(device)
    assert policy.model(IDS.to(device)).logits.device.type == device


@by_kind
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_moved_policy_computes_what_one_that_was_always_there_does(
    kind: str, is_used_before: bool
) -> None:
    """Another data type stands for another device: `Module.to` treats them alike."""
    policy = disturbed(kind)
    other = Policy("tiny", steering=EVERY_KIND[kind]())
    other.tokenizer = policy.tokenizer
    model = tiny_policy("qwen2").model
    other.adopt(model.double())
    other.steering.load_state_dict(policy.steering.state_dict())
    other.model.double()  # what LoRA has put there, too
    if is_used_before:
        policy.model(IDS)
    policy.model.double()
    found, expected = policy.model(IDS).logits, other.model(IDS).logits
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)
    with torch.inference_mode(), policy.constant_vectors():
        torch.testing.assert_close(policy.model(IDS).logits, expected, atol=1e-6, rtol=0)
    for parameter in policy.steering.parameters():
        parameter.data.mul_(2)
    assert not torch.equal(policy.model(IDS).logits, expected), "still the ones that are trained"
