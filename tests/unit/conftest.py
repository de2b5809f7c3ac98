"""A module that is ready to train."""

from __future__ import annotations

import pytest

from steer_lightning import SteeringModule
from steer_lightning.rewards import FormatReward, WeightedReward
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import save_tiny
from tests.unit.training.helpers import PROMPTS, SAMPLING


@pytest.fixture
def module(tmp_path) -> SteeringModule:
    module = SteeringModule(
        base=save_tiny(tmp_path, "llama"),
        sampling=SAMPLING,
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
        steering=SteeringVectors(layers=[0, 2]),
    )
    module.configure_model()
    module.policy.measure_units([prompt.token_ids for prompt in PROMPTS])
    module.policy.steering.weight.data[:, :32].normal_(std=0.1)
    module.on_fit_start()
    return module
