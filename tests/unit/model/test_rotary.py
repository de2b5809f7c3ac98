"""Position embeddings: computed for empty models, and switches that texts may not cross."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from steer_lightning import ConfigError
from steer_lightning.model.rotary import check_switch, compute_rotary, switch_length
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.selfcheck import compare
from steer_lightning.testing import make_prompts, tiny_model
from tests.odd_models import dynamic, longrope, policy_of


def test_the_length_of_the_switch() -> None:
    assert switch_length(longrope()) == ("longrope", 32)
    assert switch_length(dynamic()) == ("dynamic", 32)
    assert switch_length(tiny_model("gemma3").config) is None


def test_texts_on_one_side_pass_and_others_are_refused() -> None:
    check_switch(longrope(), [10, 24], 8, "key")
    check_switch(longrope(), [33, 60], 8, "key")
    check_switch(dynamic(), [10, 24], 8, "key")
    for config, prompts in ((longrope(), [10, 25]), (longrope(), [10, 60]), (longrope(), [32, 40])):
        with pytest.raises(ConfigError, match=r"key = 8.*beyond 32 tokens.*\(longrope\)"):
            check_switch(config, prompts, 8, "key")
    with pytest.raises(ConfigError, match=r"Set it to 7 or less"):
        check_switch(longrope(), [10, 25], 8, "key")
    with pytest.raises(ConfigError, match=r"\(dynamic\)"):
        check_switch(dynamic(), [33, 60], 8, "key")


@pytest.mark.parametrize("texts", [["short", "brief one"], ["x" * 40, "a text beyond " * 3]])
def test_the_engine_is_right_on_either_side(texts: list[str]) -> None:
    policy, engine = policy_of(longrope()), DecodeEngine()
    engine.setup(policy)
    assert engine.fallback is None
    sampling = Sampling(group_size=2, max_new_tokens=10)
    rollouts = engine.generate(make_prompts(texts), sampling, seed=0, step=0)
    assert compare(policy, rollouts, sampling, range(4)) < 1e-5


def test_an_engine_refuses_what_crosses() -> None:
    policy, engine = policy_of(longrope()), DecodeEngine()
    engine.setup(policy)
    with pytest.raises(ConfigError, match=r"sampling\.max_new_tokens = 24"):
        engine.generate(
            make_prompts(["x" * 25]), Sampling(group_size=2, max_new_tokens=24), seed=0, step=0
        )


def test_position_embeddings_are_those_of_the_loaded_model() -> None:
    whole = tiny_model("llama")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(whole.config)
    assert empty.model.rotary_emb.inv_freq.is_meta
    compute_rotary(empty, "cpu")
    assert torch.equal(empty.model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)
