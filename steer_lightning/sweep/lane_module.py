"""The module of an experiment that trains beside others on one base."""

from __future__ import annotations

import torch
from typing_extensions import Self

from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.rollout import RolloutEngine
from steer_lightning.sweep.joint_calls import LaneEngine, LaneGradient
from steer_lightning.sweep.lanes import Lane

LOAD = "load"
"""Kind of the joint call by which all experiments get the base, after each has checked its own
settings."""


class LaneModule(SteeringModule):
    """A `SteeringModule` whose base, rollouts and gradients are shared with other experiments.

    Attributes:
        lane: Lane in which the experiment runs; set before `fit`.
    """

    lane: Lane

    def setup(self, stage: str) -> None:
        """Refuses what experiments can't share; see `SteeringModule`."""
        if getattr(self.own_engine, "command", None) is not None:
            raise ConfigError(
                "model.engine.init_args.command",
                self.own_engine.command,  # type: ignore[attr-defined]
                rule="can't be set in a sweep",
                why="Each experiment would start servers of its own at the same addresses",
                fix="Start the servers yourself, and name them in model.engine.init_args.addresses",
            )
        if self.max_staleness:
            raise ConfigError(
                "model.max_staleness",
                self.max_staleness,
                rule="must be 0 in a sweep",
                why="Experiments take turns at the servers, which would sample ahead for one alone",
                fix="Train this experiment by `fit`",
            )
        if self.policy.quantization is not None and self.policy.base_bits is None:
            raise ConfigError(
                "model.quantization.where",
                "rollouts",
                rule="must be both in a sweep",
                why="Experiments share the layers of the base, and some of them may update while "
                "others sample",
                fix="Train this experiment by `fit`, or set model.quantization.where: both",
            )
        super().setup(stage)

    def configure_model(self) -> None:
        """Waits for the base, which is loaded once for all; see `SteeringModule`."""
        self.policy.prepare()
        num_threads: int = self.lane.call(LOAD, self)
        torch.set_num_threads(num_threads)  # each thread of Python has a setting of its own

    @property
    def own_engine(self) -> RolloutEngine:
        """Engine of the experiment's own configuration; see `HeldOut`."""
        return self.engine.engine if isinstance(self.engine, LaneEngine) else self.engine

    def set_up_engine(self) -> None:
        """Puts the engine behind the joint calls; see `HeldOut`."""
        if not isinstance(self.engine, LaneEngine):
            self.engine = LaneEngine(self.lane, self.engine)
        super().set_up_engine()

    def on_fit_start(self) -> None:
        """Puts the gradient behind the joint calls; see `SteeringModule`."""
        super().on_fit_start()
        self.batch_gradient = LaneGradient.of(self.batch_gradient, self.lane)

    def cpu(self) -> Self:
        """Leaves the base where other experiments use it; Lightning calls this when a run ends."""
        return self

    def teardown(self, stage: str) -> None:
        """Lets go of the base; see `SteeringModule`."""
        super().teardown(stage)
        self.policy.model = None
