"""What an experiment reads by itself before its gradient is accumulated together with others."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from steer_lightning.losses import KLToBase, PolicyGradient
from steer_lightning.rollout import GenerateEngine
from steer_lightning.steering import SteeringVectors
from steer_lightning.sweep.joint_calls import LaneGradient
from steer_lightning.testing import tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient, Totals
from tests.unit.training.helpers import PROMPTS, SAMPLING


def test_the_base_is_read_as_in_a_run_of_its_own() -> None:
    policy = tiny_policy("llama", SteeringVectors())
    engine = GenerateEngine()
    engine.setup(policy)
    rollouts = engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    gradient = BatchGradient(
        policy=policy,
        loss=PolicyGradient(terms=[KLToBase(0.5)]),
        temperature=SAMPLING.temperature,
        max_tokens=10_000,
    )
    lane = SimpleNamespace(owner=0, call=lambda kind, share: Totals())
    shared = LaneGradient.of(gradient, lane)  # type: ignore[arg-type]
    step = shared.plan(Batch.alone(rollouts, torch.randn(4, 4)))
    shared.accumulate(step)
    (kept,) = step.micro_batches
    assert kept.reference_logprobs is not None
    mask = kept.micro_batch.completion_mask
    expected = gradient.logprobs_of(rollouts, of_base=True)[kept.micro_batch.rows]
    found = kept.reference_logprobs * mask
    torch.testing.assert_close(found, expected[:, : mask.shape[1]], rtol=0, atol=1e-5)
