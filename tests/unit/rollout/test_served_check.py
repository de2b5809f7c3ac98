from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning.rollout import DecodeEngine
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sent_vectors import SentVectors
from steer_lightning.rollout.served_check import why_not_served
from steer_lightning.steering import SteeringVectors, attach
from steer_lightning.testing import tiny_policy
from steer_lightning.types import Rollouts


class Servers:
    """Servers in this process, with a base of their own.

    Args:
        shift: Number of layers by which they add the vectors too high.
        factor: Factor by which they multiply the vectors.
        seed: Seed of the base's weights.
        dtype: Data type of the base.
    """

    def __init__(self, shift: int, factor: float, seed: int, dtype: torch.dtype) -> None:
        self.policy = tiny_policy("qwen2", seed=seed)
        self.policy.model.to(dtype)
        self.shift, self.factor, self.lengths = shift, factor, list[int]()

    def answer(self, vectors: SentVectors, request: Request) -> Rollouts:
        self.lengths = [len(prompt.token_ids) for prompt in request.prompts]
        rows = torch.stack([vectors._rows[k] for k in range(3)]).float()
        engine = DecodeEngine()
        engine.keep(self.policy)
        with attach(self.policy.model, self.factor * rows.roll(self.shift, 0)):
            return engine.generate(request.prompts, request.sampling, seed=0, step=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shift", "factor", "seed", "is_right"),
    [(0, 1, 0, True), (0, 0, 0, False), (1, 1, 0, False), (0, 2, 0, False), (0, 1, 1, False)],
)
def test_servers_must_add_the_vectors_where_the_trainer_does(
    shift: int, factor: float, seed: int, is_right: bool, dtype: torch.dtype
) -> None:
    policy = tiny_policy("qwen2", steering=SteeringVectors(layers=[0, 1], scale="none"))
    policy.model.to(dtype)
    before = {key: value.clone() for key, value in policy.steering.state_dict().items()}
    servers = Servers(shift, factor, seed, dtype)
    reason = why_not_served(policy, 256, servers.answer)
    assert (reason is None) == is_right, reason
    after: dict[str, Any] = policy.steering.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_prompts_fit_into_the_servers() -> None:
    policy = tiny_policy("qwen2")
    servers = Servers(0, 1, 0, torch.float32)
    assert why_not_served(policy, 16, servers.answer) is None
    assert servers.lengths == [5, 9]  # and not the one of 14: 6 tokens are sampled
