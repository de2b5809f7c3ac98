"""Random states survive a checkpoint that is loaded with weights_only."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.optim import NormClip, Schedule
from steer_lightning.rewards import MathReward, WeightedReward
from steer_lightning.testing import make_prompts
from steer_lightning.training.resume import (
    LATER,
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
    *("verifier", "eval_sampling", "exact"),
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
    assert set(SETTINGS) - told == {"dtype", "quantization", "steering"}
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


def facts_of(**changed: Any) -> dict[str, Any]:
    settings = {
        "gradient_clip": NormClip(2.0),
        "schedule": Schedule(warmup=0.0),
        "rewards": [WeightedReward(reward=MathReward("boxed"))],
        **changed,
    }
    staleness = settings.pop("max_staleness", 0)
    module = SteeringModule(**settings)
    module.max_staleness = staleness  # set afterwards, because 1 needs another engine
    return training_facts(module, torch.optim.SGD([torch.zeros(1)], lr=0.5))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gradient_clip": NormClip(0.01)}, r"gradient_clip.init_args = {'max_norm': 0.01}"),
        ({"schedule": Schedule(kind="cosine", warmup=0.5)}, r"schedule = {'class': 'Schedule'"),
        (
            {"rewards": [WeightedReward(reward=MathReward("last_number"))]},
            r"rewards.init_args = {'MathReward': {'answer_in': 'last_number'}}: the checkpoint was "
            r"made with {'MathReward': {'answer_in': 'boxed'}}",
        ),
        ({"max_staleness": 1}, r"max_staleness = 1: the checkpoint was made with 0"),
    ],
)
def test_a_changed_setting_is_refused(changed: dict[str, Any], told: str) -> None:
    check_same_run(facts_of(), facts_of())
    with pytest.raises(ConfigError, match=rf"model\.{told}"):
        check_same_run(facts_of(), facts_of(**changed))


def test_a_checkpoint_of_an_earlier_version_knows_fewer_facts() -> None:
    earlier = {key: value for key, value in facts_of().items() if key not in LATER}
    check_same_run(earlier, facts_of(schedule=Schedule(kind="cosine"), max_staleness=1))
    with pytest.raises(ConfigError, match=r"mask_overlong = True: the checkpoint was made with Fa"):
        check_same_run(earlier, facts_of(mask_overlong=True))
