"""Ways to read micro-batches that would be wrong for a model are noticed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from scripts.small_models import small_model
from steer_lightning import ConfigError
from steer_lightning.losses import PolicyGradient
from steer_lightning.model import precision
from steer_lightning.model.plain_pass import plain_logits
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.completions import longest_text
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import ARCHITECTURES, byte_tokenizer, make_prompts, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import (
    RealRows,
    can_skip_layers,
    fastest,
    why_not_packed,
)
from tests.odd_models import bart, minimax, mixtral, phimoe, policy_of
from tests.out_of_memory import run_out
from tests.unit.training.helpers import policy_with_vectors

HANDING_ON = "gemma4"
"""Architecture whose upper layers read the keys and values of lower ones."""


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"falcon", HANDING_ON}))
def test_every_architecture_can_skip_layers(architecture: str) -> None:
    assert can_skip_layers(policy_with_vectors(architecture))


def test_layers_whose_keys_are_read_above_are_not_skipped() -> None:
    policy = policy_with_vectors(HANDING_ON)
    assert why_not_packed(policy) is None
    assert not can_skip_layers(policy)


@pytest.mark.parametrize("default", [(), (0,)], ids=["raises", "differs"])
def test_layers_that_hand_on_more_than_their_stream_are_noticed(
    monkeypatch: pytest.MonkeyPatch, default: tuple[int, ...]
) -> None:
    policy = policy_with_vectors()
    below, above = policy.layers[0].mlp, policy.layers[2].mlp
    first, second, beside = below.forward, above.forward, {}
    monkeypatch.setattr(below, "forward", lambda x: beside.setdefault("x", first(x)))
    monkeypatch.setattr(above, "forward", lambda x: second(x) + beside.pop("x", *default))
    assert not can_skip_layers(policy)


def gradient_of(policy: Policy, **settings: Any) -> BatchGradient:
    return BatchGradient(
        policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=10_000, **settings
    )


def gradient_error(gradient: BatchGradient) -> float:
    """Samples, and compares the gradient with that of plain rows, relative to its norm."""
    policy, engine = gradient.policy, DecodeEngine()
    engine.setup(policy)
    prompts = make_prompts(["a", "two words", "a prompt of more than sixteen bytes"])
    sampling = Sampling(group_size=2, max_new_tokens=8)
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    advantages = torch.tensor([[1.0, -1.0], [0.5, -0.5], [0.3, 0.2]])
    gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages)))
    found = policy.steering.weight.grad.clone()
    policy.steering.weight.grad = None
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]].tolist()
        logits = plain_logits(policy, prompts[n // 2].token_ids, completion)
        chosen = torch.tensor(completion)[:, None]
        total = total - advantage * logits.log_softmax(-1).gather(1, chosen).sum() / 6
    total.backward()
    right = policy.steering.weight.grad
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize(
    ("config", "told", "max_tokens"),
    [(phimoe(), "padded", 10_000), (minimax(), "padded", 10_000), (bart(), "one at a time", 1)],
    ids=["windows", "states", "positions"],
)
def test_the_fastest_right_way_is_taken(
    config: Any, told: str, max_tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = fastest(gradient_of(policy_of(config)))
    assert told in caplog.text
    assert (found.packed, found.max_tokens) == (False, max_tokens)
    assert gradient_error(found) < 1e-5


@pytest.mark.parametrize("config", [phimoe(), minimax()], ids=["windows", "states"])
def test_the_way_that_was_refused_would_have_been_wrong(config: Any) -> None:
    assert gradient_error(gradient_of(policy_of(config))) > 0.01


def test_a_leak_far_below_rounding_in_16_bits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MOST_ELSEWHERE", 0)  # too large to be checked in float32
    policy = tiny_policy("llama")
    policy.model.to(torch.bfloat16)
    assert why_not_packed(policy) is None
    layer = policy.layers[1].mlp
    forward = layer.forward

    def leaks(x: torch.Tensor) -> Any:
        return forward(x) + x.cumsum(1) * 2e-3  # a state that nothing resets

    monkeypatch.setattr(layer, "forward", leaks)
    assert "changes with the other texts in the batch" in str(why_not_packed(policy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_rows_are_compared_once_for_each_length(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    policy, real = policy_of(phimoe(window=300)), RealRows()
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.1)
    policy.model.to(dtype)
    engine = GenerateEngine()
    engine.setup(policy)
    gradient = gradient_of(policy)

    def right(texts: list[str]) -> BatchGradient:
        sampling = Sampling(group_size=2, max_new_tokens=6)
        rollouts = engine.generate(make_prompts(texts), sampling, seed=0, step=0)
        return real.right(gradient, rollouts, longest_text(rollouts))

    with caplog.at_level(logging.INFO):
        gradient = right(["a", "two words"])
        assert gradient.packed
        assert f"texts of up to {real.longest} tokens, agree with plain passes" in caplog.text
        gradient = right(["a", "a prompt of many bytes " * 14])
    assert "rows of PhimoeForCausalLM can't be packed for the update" in caplog.text
    assert not gradient.packed
    assert real.longest > 300


def test_a_model_that_no_way_reads_rightly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("llama")
    read = policy.padded_logits
    monkeypatch.setattr(policy, "padded_logits", lambda *args: read(*args).roll(1, dims=-1))
    monkeypatch.setattr(policy, "head_states", cannot)
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*can't be trained"):
        fastest(gradient_of(policy))


def cannot(*args: object, **kwargs: object) -> None:
    raise RuntimeError("this model has another mask")


@pytest.mark.parametrize("probe", [why_not_packed, can_skip_layers])
def test_a_probe_that_runs_out_of_memory_says_so(
    probe: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy("llama", SteeringVectors(layers=[1]))
    monkeypatch.setattr(policy, "head_states", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        probe(policy)
    monkeypatch.setattr(policy, "head_states", cannot)
    assert probe(policy) in (False, "RuntimeError: this model has another mask")


# ---- what a sweep of all architectures has found


def test_a_leak_in_a_model_with_experts_is_noticed_where_all_tokens_are_about_equally_likely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "MOST_ELSEWHERE", 0)
    policy = policy_of(mixtral())
    policy.model.to(torch.bfloat16)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.03)  # as in Inkling, which divides its logits by 24
    assert why_not_packed(policy) is None
    layer = policy.layers[1].self_attn.o_proj
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: forward(x + x.cumsum(1) * 0.01))
    assert "changes with the other texts in the batch" in str(why_not_packed(policy))


def small_policy(name: str, **settings: Any) -> Policy:
    policy = Policy("tiny", steering=SteeringVectors(scale="none", **settings))
    policy.tokenizer = byte_tokenizer()
    policy.adopt(small_model(name, torch.float32))
    return policy


def test_layers_that_are_called_several_times_in_a_pass_are_not_skipped() -> None:
    policy = small_policy("hrm_text", layers=[2, 3], layers_path="model.L_module.layers")
    assert why_not_packed(policy) is None
    assert not can_skip_layers(policy)


@pytest.mark.parametrize(
    "name", ["cohere", "granite", "hyperclovax", "falcon_h1", "minicpm3", "granitemoehybrid"]
)
def test_rows_of_a_model_that_multiplies_its_logits_are_packed(name: str) -> None:
    """MiniCPM3 divides what enters the output layer instead, by a number of the same name."""
    assert why_not_packed(small_policy(name)) is None


def test_exact_rows_are_compared_in_the_blocks_in_which_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other way of reading takes their place, with which they would not be exact."""
    policy = tiny_policy("llama")
    engine = GenerateEngine()
    engine.setup(policy)
    texts = make_prompts(["a", "a longer prompt", "two words"])
    sampling = Sampling(group_size=3, max_new_tokens=6)
    rollouts = engine.generate(texts, sampling, seed=0, step=0)
    gradient = replace(gradient_of(policy), exact=True, max_tokens=10_000)
    rows, _ = gradient.read_longest(rollouts)
    assert rows.groups == [1, 1, 1], "one prompt's completions, not a mixed batch"
    read = policy.padded_logits
    monkeypatch.setattr(policy, "padded_logits", lambda *args: read(*args).roll(1, dims=-1))
    with pytest.raises(ConfigError, match=r"model.exact = True.*LlamaForCausalLM"):
        RealRows().right(gradient, rollouts, longest_text(rollouts))
