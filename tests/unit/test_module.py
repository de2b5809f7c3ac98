"""The module: what it keeps, learns and tells."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.advantages import RLOO
from steer_lightning.rollout import Sampling, completions_of
from steer_lightning.steering import LoRA
from steer_lightning.testing import save_tiny, tiny_model
from tests.unit.training.helpers import PROMPTS, gradient


def test_steps_on_the_gradient_raise_the_reward_and_leave_the_base_alone(
    module: SteeringModule,
) -> None:
    before = module.policy.base_sha256()
    optimizer = torch.optim.Adam([module.policy.steering.weight], lr=0.3)
    sampling = Sampling(group_size=16, max_new_tokens=8)
    module.sampling = sampling
    rewards = []
    for step in range(15):
        rollouts = module.engine.generate(PROMPTS, sampling, seed=0, step=step)
        reward = torch.tensor(module.reward(completions_of(rollouts)).total).view(4, 16)
        rewards.append(reward.mean().item())
        gradient(module, rollouts, RLOO()(reward))
        optimizer.step()
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
    assert module.policy.base_sha256() == before
    module.policy.model.lm_head.weight.data[0, 0] += 1e-3
    assert module.policy.base_sha256() != before


def test_checkpoints_hold_what_is_trained_and_no_base(module: SteeringModule) -> None:
    assert sorted(module.state_dict()) == [
        "gradient_clip.running",
        "policy.steering.unit",
        "policy.steering.units_measured",
        "policy.steering.weight",
    ]


def test_checkpoints_hold_what_is_trained_alone(tmp_path: Path) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "qwen2"), steering=LoRA(rank=1))
    module.configure_model()
    names = {name.rsplit(".", 1)[0] for name in module.state_dict()}
    assert names == {"gradient_clip", "policy.steering.down", "policy.steering.up"}
    count = sum(p.numel() for p in tiny_model("qwen2").parameters())
    assert module.policy.sharding.num_parameters(module.policy.model) == count


def test_a_module_pads_where_packing_is_not_right(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "falcon"))
    module.configure_model()
    with caplog.at_level(logging.WARNING):
        module.on_fit_start()
    assert not module.batch_gradient.packed
    assert "rows of FalconForCausalLM can't be packed" in caplog.text
