"""Engines that would be wrong for a model notice it, and are right in a slower way."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.completions import longest_text
from steer_lightning.rollout.selfcheck import compare
from steer_lightning.testing import make_prompts, tiny_policy
from tests.odd_models import bart, phimoe, policy_of
from tests.out_of_memory import run_out

PROMPTS = make_prompts(["a", "two words", "a prompt of more than sixteen bytes, as real ones are"])
SAMPLING = Sampling(group_size=2, max_new_tokens=12)


def gap(engine: Any, policy: Any, sampling: Sampling = SAMPLING) -> float:
    """Samples, and returns the largest difference from plain passes."""
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    return compare(policy, rollouts, sampling, range(len(rollouts.texts)))


def test_a_window_that_only_the_mask_tells_of_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    policy, engine = policy_of(phimoe(window=16)), DecodeEngine()
    engine.setup(policy)
    assert "does not decode correctly in DecodeEngine (log-probabilities differ" in caplog.text
    assert gap(engine, policy) < 1e-5


LONG_PROMPTS = make_prompts(["a", "two words", "a prompt of many bytes " * 14])
"""The last one is longer than 300 bytes."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_window_is_noticed_in_the_first_batch_that_crosses_it(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where rounding is larger than the difference in the logits, which are made small."""
    policy, engine = policy_of(phimoe(window=300)), DecodeEngine()
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.1)
    policy.model.to(dtype)
    engine.setup(policy)
    with caplog.at_level(logging.INFO):
        short = engine.generate(LONG_PROMPTS[:2], SAMPLING, seed=0, step=0)
    assert engine.fallback is None
    assert f"texts of up to {longest_text(short)} tokens, agree with plain" in caplog.text
    told: dict[int, str] = {}
    long = engine.generate(
        LONG_PROMPTS,
        SAMPLING,
        seed=0,
        step=0,
        on_completion=lambda row, completion: told.__setitem__(row, completion.text),
    )
    assert "DecodeEngine (log-probabilities differ" in caplog.text
    assert compare(policy, long, SAMPLING, range(6)) < (1e-5 if dtype == torch.float32 else 0.01)
    assert [told[row] for row in range(6)] == list(long.texts), "rows told twice end as sampled"


def test_texts_no_longer_than_those_compared_cost_no_further_pass() -> None:
    policy, engine = tiny_policy(), DecodeEngine()
    engine.setup(policy)
    plain = []

    def count(model: object, args: object, kwargs: Any) -> None:
        if not kwargs["use_cache"]:
            plain.append(kwargs["input_ids"].shape)

    policy.model.register_forward_pre_hook(count, with_kwargs=True)
    for _ in range(2):
        engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert len(plain) == 3, "the longest, the shortest and a middle one of the first batch"


def test_padding_that_a_model_does_not_take_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    policy, engine = policy_of(bart()), GenerateEngine()
    engine.setup(policy)
    assert "BartForCausalLM does not read padded batches correctly" in caplog.text
    assert gap(engine, policy) < 1e-5
    engine._pads = True
    assert gap_with_padding(engine, policy) > 0.1, "it would have been wrong"


def gap_with_padding(engine: GenerateEngine, policy: Any) -> float:
    rollouts = engine._generate(policy, PROMPTS, SAMPLING, seed=0, step=0)
    return compare(policy, rollouts, SAMPLING, range(len(rollouts.texts)))


def test_a_model_that_generate_itself_reads_wrongly_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny_policy()
    forward = policy.model.forward

    def forgets(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if kwargs["use_cache"]:  # as a cache would that keeps too little
            output.logits = output.logits.roll(1, dims=-1)
        return output

    monkeypatch.setattr(policy.model, "forward", forgets)
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*not even without padding"):
        DecodeEngine().setup(policy)


def test_the_check_has_several_rows_and_prompts_at_once() -> None:
    policy, engine = tiny_policy(), DecodeEngine()
    shapes = []
    policy.model.register_forward_pre_hook(
        lambda model, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    engine.setup(policy)
    decoding = [k for k, (_, tokens) in enumerate(shapes) if tokens == 1]
    assert max(shapes[k][0] for k in decoding) == 4
    prefills = [rows for k, (rows, tokens) in enumerate(shapes[: decoding[-1]]) if tokens > 1]
    assert len(prefills) > 1, "prompts wait, and take the place of others"
    assert max(prefills) == 2


@pytest.mark.parametrize("settings", [{"top_p": 0.7}, {"top_k": 5}, {"temperature": 0}])
def test_completions_that_are_cut_or_greedy_are_compared_with_the_same_cut(
    settings: dict[str, Any],
) -> None:
    policy, engine = tiny_policy(), DecodeEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=8, **settings)
    assert gap(engine, policy, sampling) < 1e-5
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    rollouts.logprobs.sub_(torch.where(rollouts.completion_mask, 0.01, 0.0))
    assert compare(policy, rollouts, sampling, [0]) == pytest.approx(0.01, rel=1e-2)


def test_an_engine_that_runs_out_of_memory_in_its_check_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny_policy("llama")
    monkeypatch.setattr(policy.model, "forward", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        DecodeEngine().setup(policy)
