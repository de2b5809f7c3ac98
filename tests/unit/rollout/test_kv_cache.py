"""How many keys and values are in flight, and tails that outgrow their room."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.kv_cache import plan_flight
from steer_lightning.rollout.request import Request
from steer_lightning.testing import make_prompts
from tests.unit.rollout.helpers import PROMPTS, engine_for, steered


def test_tails_longer_than_their_first_room_and_windows() -> None:
    policy = steered("gemma3")  # sliding windows of 8
    sampling = Sampling(group_size=2, max_new_tokens=150)
    reference = GenerateEngine()
    reference.setup(policy)
    expected = reference.generate(PROMPTS, sampling, seed=0, step=0)
    found = engine_for(policy).generate(PROMPTS, sampling, seed=0, step=0)
    assert expected.completion_ids.shape[1] == 150
    assert torch.equal(found.completion_ids, expected.completion_ids)


def test_plans_by_hand() -> None:
    prompts = make_prompts(["x" * 9] * 4)  # 10 tokens each, with BOS
    sampling = Sampling(group_size=4, max_new_tokens=20)
    asked = [Request(prompts=prompts, sampling=sampling, seed=0, step=0)]
    whole = plan_flight(asked, 360)  # 16 * 20 + 4 * 10
    assert (whole.max_rows, whole.max_prompts, whole.tokens) == (16, 4, 360)
    part = plan_flight(asked, 200)
    assert part.tokens <= 200
    assert part.max_rows == 7  # (200 - 2 * 10) / (20 + 1.5 * 10 / 4)
    one = plan_flight(asked, 30)
    assert (one.max_rows, one.max_prompts) == (1, 1)
    with pytest.raises(ConfigError, match=r"max_tokens_in_flight = 29.*10 tokens.*20 tokens.*30"):
        plan_flight(asked, 29)
    with pytest.raises(ConfigError, match="at least 1"):
        DecodeEngine(0)
