"""Random states survive a checkpoint that is loaded with weights_only."""

from __future__ import annotations

import inspect
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.testing import make_prompts
from steer_lightning.training.resume import (
    SETTINGS,
    check_same_run,
    get_random_states,
    set_random_states,
    training_facts,
)


def draws() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))


def test_generators_go_on_where_they_stood(tmp_path: Path) -> None:
    draws()  # gauss() and standard_normal() keep a second number in stock
    torch.save(get_random_states(), tmp_path / "states.ckpt")
    expected = [draws(), draws()]
    set_random_states(torch.load(tmp_path / "states.ckpt", weights_only=True))
    assert [draws(), draws()] == expected


def test_tuples_within_tuples_come_back_as_lists() -> None:
    now = {"model.x": (1, (2, 3)), "model.optimizer.init_args": {"betas": (0.9, 0.99)}}
    saved = {"model.x": [1, [2, 3]], "model.optimizer.init_args": {"betas": [0.9, 0.99]}}
    check_same_run(saved, now)
    with pytest.raises(ConfigError, match=r"model.x = \(1, \(2, 3\)\): the checkpoint was made"):
        check_same_run({**saved, "model.x": [1, [2, 4]]}, now)


FREE = {
    *("base", "revision", "attn_implementation", "trust_remote_code", "engine", "seed"),
    *("tokens_per_micro_batch", "activation_checkpointing", "kept_tokens", "reward_pool"),
    *("verifier", "eval_sampling", "exact", "max_staleness"),
}
"""Settings that a run may change when it goes on, or that its checkpoint knows by other facts."""


def test_each_setting_of_a_module_must_stay_or_is_free() -> None:
    names = set(inspect.signature(SteeringModule).parameters)
    assert names == set(SETTINGS) | FREE
    assert not set(SETTINGS) & FREE


def test_the_facts_of_a_run_are_of_the_settings_that_must_stay() -> None:
    module = SteeringModule(mask_overlong=True)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    facts = training_facts(module, optimizer)
    told = {key.split(".")[1] for key in facts}
    assert set(SETTINGS) - told == {"dtype", "quantization", "schedule", "steering"}
    assert told <= set(SETTINGS)
    assert facts["model.mask_overlong"] is True
    assert facts["model.loss"]["class"] == "PolicyGradient"
    assert facts["model.optimizer.init_args"]["lr"] == 0.5
    checksum = "model.guidance.text (checksum of the prompts with hints)"
    assert facts[checksum] is None
    one, two = make_prompts(["care 9: 47+38", "care 8: 47+38"])
    module.hints = {0: one}
    known = training_facts(module, optimizer)[checksum]
    module.hints = {0: two}
    assert known != training_facts(module, optimizer)[checksum]
