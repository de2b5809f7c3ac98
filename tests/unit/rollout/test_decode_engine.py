"""The decode engine: the same tokens as `generate`, whatever is in flight at once."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.model.sharding import Sharding
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.testing import check_engine, tiny_policy
from tests.unit.rollout.helpers import OPEN_DOORS, PROMPTS, engine_for, steered


@pytest.mark.parametrize("architecture", OPEN_DOORS)
def test_greedy_tokens_are_those_of_transformers(architecture: str) -> None:
    policy = steered(architecture)
    greedy = Sampling(group_size=1, temperature=0, max_new_tokens=12)
    rollouts = engine_for(policy).generate(PROMPTS, greedy, seed=0, step=0)
    for k, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt.token_ids])
        expected = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        length = int(rollouts.completion_mask.sum(1)[k])
        found = rollouts.completion_ids[k, :length].tolist()
        assert found == expected[0, len(prompt.token_ids) :].tolist()


SOME = {"llama", "gemma3", "gemma4", "gpt2", "deepseek_v3", "gpt_oss", "qwen3_next"}
"""Architectures of each kind of layer; the others are slow tests."""


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(x, marks=[] if x in SOME else pytest.mark.slow) for x in OPEN_DOORS],
)
def test_what_is_in_flight_at_once_changes_nothing(architecture: str) -> None:
    """A budget of few tokens makes rows wait, move and take each other's places."""
    policy = steered(architecture)
    reference = GenerateEngine()
    reference.setup(policy)
    stop = 3 + ord("e") % 50  # ends rows here and there
    sampling = Sampling(group_size=3, max_new_tokens=14, eos_token_ids=list(range(stop, stop + 20)))
    expected = reference.generate(PROMPTS, sampling, seed=1, step=2)
    assert len(set(expected.completion_mask.sum(1).tolist())) > 1, "rows end at different times"
    for budget in (262_144, 150, 60):
        engine = engine_for(policy, max_tokens_in_flight=budget)
        check_engine(engine, policy, PROMPTS)
        found = engine.generate(PROMPTS, sampling, seed=1, step=2)
        assert torch.equal(found.completion_mask, expected.completion_mask)
        assert torch.equal(found.completion_ids, expected.completion_ids)
        assert torch.equal(found.finished, expected.finished)
        assert found.texts == expected.texts
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)


def test_a_rollout_reads_the_vectors_as_they_are_and_leaves_the_model_alone() -> None:
    policy = steered("llama")
    engine = engine_for(policy)
    sampling = Sampling(group_size=2, max_new_tokens=8)
    before = engine.generate(PROMPTS, sampling, seed=0, step=0)
    ids = torch.tensor([PROMPTS[2].token_ids])
    logits = policy.model(ids).logits
    policy.steering.weight.data.mul_(-20)
    after = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert before.texts != after.texts
    policy.steering.weight.data.div_(-20)
    torch.testing.assert_close(policy.model(ids).logits, logits)
    assert policy.model.config._attn_implementation == "sdpa"


def test_a_model_without_these_doors_falls_back_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = steered("falcon")
    engine = DecodeEngine()
    with caplog.at_level(logging.WARNING):
        engine.setup(policy)
    assert isinstance(engine.fallback, GenerateEngine)
    (told,) = [record for record in caplog.records if "DecodeEngine" in record.message]
    assert "FalconForCausalLM" in told.message
    check_engine(engine, policy, PROMPTS)


def test_memory_that_runs_out_halves_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    class Small(DecodeEngine):
        def decode(self, policy, request, plan, **more):  # type: ignore[no-untyped-def]
            if self._policy is not None and plan.tokens > 70:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().decode(policy, request, plan, **more)

    policy = steered("qwen2")
    sampling = Sampling(group_size=3, max_new_tokens=6)
    expected = engine_for(policy).generate(PROMPTS, sampling, seed=0, step=0)
    engine = Small()
    engine.setup(policy)
    found = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert torch.equal(found.completion_ids, expected.completion_ids), "the step is not lost"
    assert engine._fitting <= 140
    assert "the rollout restarts with" in caplog.text
    assert engine.max_tokens_in_flight == 262_144, "what the user has set stays"
    message = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))

    class InStep(Sharding):
        in_step = True  # other processes are in the middle of the same pass

    policy.sharding, engine = InStep(), Small()
    engine.setup(policy)
    with pytest.raises(
        ConfigError, match=r"max_tokens_in_flight = 262144: memory ran out with \d+ tokens.*in step"
    ):
        engine.generate(PROMPTS, sampling, seed=0, step=0)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("budget", [262_144, 150])
def test_completions_that_have_drawn_the_same_share_a_row(architecture: str, budget: int) -> None:
    """A sharp policy draws the same tokens for a while; its rows part one after the other."""
    policy = steered(architecture)
    reference = GenerateEngine()
    reference.setup(policy)
    engine = engine_for(policy, max_tokens_in_flight=budget)
    read = []

    def count(model: object, args: object, kwargs: Any) -> None:
        if kwargs["use_cache"]:  # the plain passes of the engine's check have none
            read.append(len(kwargs["input_ids"]))

    policy.model.register_forward_pre_hook(count, with_kwargs=True)
    stops = list(range(20, 30))
    sampling = Sampling(group_size=6, max_new_tokens=12, temperature=0.01, eos_token_ids=stops)
    found = engine.generate(PROMPTS, sampling, seed=0, step=0)
    rows = found.completion_ids.view(len(PROMPTS), 6, -1)
    lengths = found.completion_mask.sum(1).view(len(PROMPTS), 6)
    # what must be read: each beginning once, without the token that ends a row
    needed = {
        (b, *rows[b, k, :t].tolist())
        for b in range(len(PROMPTS))
        for k in range(6)
        for t in range(1, int(lengths[b, k]))
    }
    plain = int((found.completion_mask.sum(1) - 1).sum())
    assert len(needed) < 0.8 * plain, "some begin alike"
    assert len(needed) > 5 * 11 * 1.2, "and part later"
    if budget == 262_144:
        assert sum(read) == len(needed) + len(PROMPTS)
    expected = reference.generate(PROMPTS, sampling, seed=0, step=0)
    assert torch.equal(found.completion_ids, expected.completion_ids)
    assert torch.equal(found.finished, expected.finished)
    torch.testing.assert_close(
        found.logprobs, expected.logprobs, atol=1e-3, rtol=0
    )  # divided by 0.01


def test_unsteered_layers_and_rollouts_without_vectors() -> None:
    policy = tiny_policy("qwen3", SteeringVectors(layers=[1]))
    check_engine(engine_for(policy), policy, PROMPTS)
