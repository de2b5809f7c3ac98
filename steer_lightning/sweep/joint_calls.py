"""The two calls of a run that a sweep carries out for all experiments together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, RolloutEngine, Sampling
from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.joint_completions import JointCompletions, Outcome
from steer_lightning.rollout.kv_cache import Plan
from steer_lightning.rollout.request import Request
from steer_lightning.steering import Steering
from steer_lightning.sweep.joint_check import (
    gradient_alone,
    why_not_joint,
    why_not_joint_gradient,
)
from steer_lightning.sweep.lanes import Lane
from steer_lightning.sweep.memory import memory_for
from steer_lightning.sweep.shared_base import SharedBase
from steer_lightning.system.allocator import give_back
from steer_lightning.system.printable import one_line
from steer_lightning.training.batch import MiniBatch
from steer_lightning.training.gradient import BatchGradient, Totals
from steer_lightning.training.joint_gradient import JointGradient, Share
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)

CHECK, ROLLOUT, GRADIENT = "check", "rollout", "gradient"
"""Kinds of joint calls."""


class LaneEngine:
    """The engine of one experiment; its rollouts are made together with those of the others.

    Args:
        lane: Lane in which the experiment runs.
        engine: Engine of the experiment's own configuration.
    """

    def __init__(self, lane: Lane, engine: RolloutEngine) -> None:
        self.lane, self.engine = lane, engine

    def setup(self, policy: Policy) -> None:
        """Sets up the experiment's own engine; see `RolloutEngine.setup`.

        A flight is checked once for all experiments; see `why_not_joint`.
        """
        if not isinstance(self.engine, DecodeEngine):
            self.engine.setup(policy)
            return
        self.engine.keep(policy)
        reason: str | None = self.lane.call(CHECK, None)
        if reason is not None:
            self.engine.fall_back(policy, reason)

    def sync(self, steering: Steering) -> None:
        """Hands on the trained parameters; see `RolloutEngine.sync`."""
        self.engine.sync(steering)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        on_completion: OnCompletion = ignore,
    ) -> Rollouts:
        """Answers prompts; see `RolloutEngine.generate`."""
        asked: dict[str, Any] = {"seed": seed, "step": step, "on_completion": on_completion}
        engine = self.engine
        if isinstance(engine, DecodeEngine) and engine.fallback is None:
            request = Request(prompts=prompts, sampling=sampling, **asked)
            rollouts: Rollouts = self.lane.call(ROLLOUT, request)
            if engine.is_right(rollouts, sampling):
                return rollouts  # else the engine has fallen back
        found: Rollouts = engine.generate(prompts, sampling, **asked)
        return found


@dataclass(kw_only=True)
class LaneGradient(BatchGradient):
    """The gradient of one experiment, which is accumulated together with those of the others.

    Attributes:
        lane: Lane in which the experiment runs.
    """

    lane: Lane

    @classmethod
    def of(cls, gradient: BatchGradient, lane: Lane) -> LaneGradient:
        """Returns a gradient with the settings of another one."""
        settings = {part.name: getattr(gradient, part.name) for part in fields(BatchGradient)}
        return cls(lane=lane, **settings)

    def accumulate(self, mini_batch: MiniBatch) -> Totals:
        """Leaves the gradient in `.grad`; see `BatchGradient.accumulate`."""
        share = Share(owner=self.lane.owner, gradient=self, mini_batch=mini_batch)
        if not share.can_join:
            return super().accumulate(mini_batch)
        with self.passes():
            for kept in mini_batch.micro_batches:
                self.refer(kept)
        totals: Totals = self.lane.call(GRADIENT, share)
        return totals


class JointCalls:
    """Carries out the calls of several experiments.

    Args:
        base: Base that they share.
        engine: Engine of an experiment; all engines have the same settings.
        num_crews: Number of crews whose calls may be carried out at the same time. They share the
            tokens in flight and those of a pass, so that they take no more memory than one crew.
        num_experiments: Number of experiments in all crews.
    """

    def __init__(
        self, base: SharedBase, engine: RolloutEngine, num_crews: int = 1, num_experiments: int = 1
    ) -> None:
        self._base, self._engine, self._num_crews = base, engine, num_crews
        self._num_experiments = num_experiments
        self._gradient: JointGradient | None = JointGradient(base.joint, num_crews)
        self._has_compared = False

    def __call__(self, kind: str, lanes: Sequence[Lane]) -> None:
        """Carries out calls of one kind, and sets their answers; see `Lanes`."""
        carry_out = {CHECK: self._check, ROLLOUT: self._roll_out, GRADIENT: self._accumulate}
        with memory_for(self._num_experiments):
            answers = carry_out[kind](lanes)
        for lane, answer in zip(lanes, answers, strict=True):
            lane.answer = answer

    def _check(self, lanes: Sequence[Lane]) -> list[Any]:
        assert isinstance(self._engine, DecodeEngine)  # no other is checked here
        self._engine.keep(self._base.policies[0])  # its own experiment may have failed before
        return [why_not_joint(self._base, self._engine)] * len(lanes)

    def _accumulate(self, lanes: Sequence[Lane]) -> list[Any]:
        shares: list[Share] = [lane.request for lane in lanes]
        if self._gradient is not None:
            with self._base.serving_all([lane.owner for lane in lanes]):
                self._gradient.accumulate(shares)
            self._compare(shares)
        if self._gradient is None:
            for share in shares:
                gradient_alone(self._base, share)
        give_back()  # what the pass took; a rollout takes other sizes
        return [share.error or share.totals for share in shares]

    def _compare(self, shares: Sequence[Share]) -> None:
        """Compares the first joint gradient with those of experiments alone."""
        # where all answers of all groups are right, or wrong, there is nothing to compare yet
        learning = [share for share in shares if share.mini_batch.micro_batches]
        if self._has_compared or not learning:
            return
        self._has_compared = True
        reason = why_not_joint_gradient(self._base, learning)
        if reason is not None:
            self._gradient = None
            log.warning(
                "an update in passes that experiments share is wrong (%s): they are read one after "
                "the other, which is slower",
                one_line(reason),
            )

    def _roll_out(self, lanes: Sequence[Lane]) -> list[Any]:
        numbers = [lane.owner for lane in lanes]
        requests: list[Request] = [lane.request for lane in lanes]
        policies = [self._base.policies[number] for number in numbers]
        engine = self._engine
        assert isinstance(engine, DecodeEngine)  # no other makes joint calls

        def fly(plan: Plan) -> list[Outcome]:
            completions = JointCompletions(policies, requests, numbers)
            with self._base.serving_all(numbers) as joint:
                engine.fly(joint, completions, plan)
            return completions.outcomes()

        outcomes: list[Any] = engine.in_memory(fly, self._base.joint, requests, self._num_crews)
        return outcomes
