"""Experiments that run side by side are what each of them is alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch

from steer_lightning import PromptDataModule, SteeringModule
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.rewards import FormatReward, MathReward, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.sweep.joint_calls import JointCalls, LaneEngine, LaneGradient
from steer_lightning.sweep.lanes import Lane, run_lanes
from steer_lightning.sweep.shared_base import SharedBase


def module(seed: int = 0, rate: float = 0.02, **settings: Any) -> SteeringModule:
    settings = {"sampling": Sampling(group_size=4, max_new_tokens=40), **settings}
    return SteeringModule(
        seed=seed, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate), **settings
    )


EXPERIMENTS: list[Callable[[], SteeringModule]] = [
    module,
    lambda: module(seed=1, rate=0.08),
    lambda: module(steering=SteeringVectors(layers=[2])),
    lambda: module(
        rewards=[WeightedReward(reward=MathReward()), WeightedReward(reward=FormatReward())],
        sampling=Sampling(group_size=6, max_new_tokens=40, temperature=0.8),
    ),
]


def data(seed: int) -> PromptDataModule:
    return PromptDataModule(
        train=Arithmetic(num_problems=64),
        template=PlainTemplate("{question}=?\n"),
        batch_size=6,
        seed=seed,
    )


def fit(experiment: SteeringModule, steps: int) -> torch.Tensor:
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        devices=1,
    )
    trainer.fit(experiment, data(experiment.seed))
    return experiment.policy.steering.vectors.detach().clone()


class Lanewise(SteeringModule):
    lane: Lane

    def on_fit_start(self) -> None:
        self.engine = LaneEngine(self.lane, self.engine)
        super().on_fit_start()
        self.batch_gradient = LaneGradient.of(self.batch_gradient, self.lane)


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command line withholds
@pytest.mark.parametrize("steps", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_each_experiment_is_its_single_run(steps: int) -> None:
    expected = [fit(make(), steps) for make in EXPERIMENTS]
    modules = [make() for make in EXPERIMENTS]
    for experiment in modules:
        experiment.__class__ = Lanewise
    modules[0].policy.load()
    for experiment in modules[1:]:
        experiment.policy.prepare()
        experiment.policy.adopt(modules[0].policy.model)
    base = SharedBase([experiment.policy for experiment in modules])

    def run(lane: Lane) -> torch.Tensor:
        modules[lane.number].lane = lane
        return fit(modules[lane.number], steps)

    def serve(lane: Lane) -> None:
        base.policies[lane.number].attachment.is_paused = False

    def pause(lane: Lane) -> None:
        base.policies[lane.number].attachment.is_paused = True

    calls = JointCalls(base, modules[0].engine)
    lanes = run_lanes([run] * 4, calls, before_turn=serve, after_turn=pause)
    assert [lane.error for lane in lanes] == [None] * 4
    for lane, vectors in zip(lanes, expected, strict=True):
        assert vectors.abs().max() > 0.01
        torch.testing.assert_close(lane.result, vectors, rtol=0, atol=1e-6)
