"""Random states survive a checkpoint that is loaded with weights_only."""

from __future__ import annotations

import inspect
import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.optim import NormClip, Schedule
from steer_lightning.rewards import MathReward, WeightedReward
from steer_lightning.testing import make_prompts
from steer_lightning.training import resume
from steer_lightning.training.resume import (
    LATER,
    SETTINGS,
    check_same_run,
    get_random_states,
    restore_random_states,
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


TWO = """
import os, random, sys
import torch
import torch.distributed as dist
from steer_lightning.training.resume import gather_random_states, restore_random_states

rank = 1 if os.fork() == 0 else 0
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
try:
    random.seed(0)
    if rank == 1:  # its reward has drawn a number
        random.random()
    states = gather_random_states()
    if rank == 0:
        torch.save(states, sys.argv[2])
    dist.barrier()
    expected = random.random()
    restore_random_states(torch.load(sys.argv[2], weights_only=True))
    assert random.random() == expected
    random.seed(0)
    first, second = random.random(), random.random()
    assert expected == (first, second)[rank]
    sys.stdout.write("the same\\n")  # in one piece, also if Python does not buffer
finally:
    dist.destroy_process_group()
"""


def test_each_process_goes_on_with_its_own_generators(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "store"), str(tmp_path / "states.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["the same"] * 2, done.stderr


@pytest.mark.parametrize("of_earlier_version", [False, True])
def test_more_or_fewer_processes_go_on_with_the_generators_of_the_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, of_earlier_version: bool
) -> None:
    states, drawn = [], []
    for _ in range(2):
        states.append(get_random_states())
        drawn.append(draws())
    restore_random_states(states[0])
    assert draws() == drawn[0]
    assert not caplog.records
    monkeypatch.setattr(resume, "world_size", lambda: 3)
    monkeypatch.setattr(resume, "rank", lambda: 1)
    with caplog.at_level(logging.WARNING):
        restore_random_states(states[0] if of_earlier_version else states)
    assert draws() == drawn[0]
    told = f"random states of {1 if of_earlier_version else 2} processes, and this run has 3"
    assert told in caplog.text


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
