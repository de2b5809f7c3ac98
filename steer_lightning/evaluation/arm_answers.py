"""The answers of several arms to the same problems, in one flight where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.ablation import EvalArm, acting_as
from steer_lightning.evaluation.metrics import BenchmarkMetrics
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import RewardSum
from steer_lightning.rollout import (
    DecodeEngine,
    GenerateEngine,
    RolloutEngine,
    Sampling,
    completions_of,
)
from steer_lightning.rollout.completions import longest_text
from steer_lightning.rollout.exact_engine import ExactEngine
from steer_lightning.rollout.joint_completions import JointCompletions, Outcome
from steer_lightning.rollout.kv_cache import FEW_SLOTS, Plan
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.selfcheck import RealTexts
from steer_lightning.steering import SiteVectors
from steer_lightning.steering.row_vectors import RowSteering, RowVectors, steers_rows
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt, Rollouts

log = logging.getLogger(__name__)


class ArmAnswers:
    """Answers problems by K arms, whose rows lie side by side in one flight of `DecodeEngine`.

    Each row is steered as its arm demands. The first answers of each arm, and those whose texts are
    longer than all before, are compared with plain passes. Where one flight is not possible, or its
    answers are wrong, the arms answer one after another, with a warning.

    Args:
        policy: Policy whose parameters are trained; they do not change.
        engine: Engine that has been set up with the policy.
        arms: The K arms.
    """

    def __init__(self, policy: Policy, engine: RolloutEngine, arms: Sequence[EvalArm]) -> None:
        self._policy, self._engine, self.arms = policy, engine, arms
        self._joint: Policy | None = None
        self._failure: str | None = None
        self._has_told = False
        self._scale = 1.0
        self._texts = [
            RealTexts(policy, partial(self._answer_made_up, number), f"arm {arm.name}")
            for number, arm in enumerate(arms)
        ]

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """Answers the request of each arm.

        Args:
            requests: A request for each arm, which differ only in `on_completion`.

        Returns:
            The answers of each arm. If the logits of an arm are not finite, its error stands in
            their place.
        """
        self._scale = self._policy.attachment.scale
        reason = self.why_not_together()
        if reason is None:
            try:
                outcomes = self._fly(requests)
                self._failure = self._why_wrong(requests, outcomes)
            except ConfigError as error:  # such as one flight that is too large for the memory
                self._failure = str(error).rstrip(".")
            if self._failure is None:
                return outcomes
            reason = self._failure
        if not self._has_told:
            log.warning(
                "the arms of BenchmarkEval are answered one after another, which takes longer than "
                "in one flight: %s",
                one_line(reason),
            )
            self._has_told = True
        return [self._alone(number, request) for number, request in enumerate(requests)]

    def why_not_together(self) -> str | None:
        """Returns the reason why the arms can't share a flight; None if they can."""
        engine, steering = self._engine, self._policy.steering
        if isinstance(engine, ExactEngine):
            return "model.exact is true"
        if not isinstance(engine, DecodeEngine):
            return f"model.engine is {type(engine).__name__}, not DecodeEngine"
        if engine.fallback is not None:
            return "GenerateEngine has taken the place of DecodeEngine"
        if self._policy.sharding.shards:
            return "the base is sharded over several processes"
        if not steers_rows(steering):
            return f"model.steering is {type(steering).__name__}, which can't act by row"
        return self._failure

    # ---- in one flight

    def _fly(self, requests: Sequence[Request], plan: Plan | None = None) -> list[Outcome]:
        """Answers all requests in one flight, within a plan or within the memory."""
        engine, own = self._engine, self._policy.attachment
        assert isinstance(engine, DecodeEngine)
        policies = [self._policy] * len(requests)

        def fly(plan: Plan) -> list[Outcome]:
            completions = JointCompletions(policies, requests)
            engine.fly(joint, completions, plan)
            return completions.outcomes()

        joint = self._by_row()
        was_paused, own.is_paused = own.is_paused, True
        joint.attachment = attachment = joint.steering.attach(joint.model)
        assert isinstance(attachment, RowVectors)
        attachment.scales = [self._scale * arm.scale for arm in self.arms]
        try:
            outcomes: list[Outcome] = (
                engine.in_memory(fly, joint, requests) if plan is None else fly(plan)
            )
        finally:
            attachment.remove()
            own.is_paused = was_paused
        return outcomes

    def _by_row(self) -> Policy:
        """Returns a policy of the same base whose rows are steered by the arms."""
        if self._joint is None:
            policy, steering = self._policy, self._policy.steering
            assert isinstance(steering, SiteVectors)
            parts = [steering] * len(self.arms)
            by_row = RowSteering(parts, [arm.left_out for arm in self.arms])
            joint = Policy(policy.base, steering=by_row)
            joint.tokenizer, joint.sharding = policy.tokenizer, policy.sharding
            joint.adopt(policy.model)
            joint.attachment.remove()
            self._joint = joint
        return self._joint

    def _why_wrong(self, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> str | None:
        """Compares answers whose texts are longer than all before with plain passes."""
        for number, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
            if isinstance(outcome, Exception):
                continue
            reason = self._why_wrong_of(number, outcome, request.sampling)
            if reason is not None:
                return reason
        return None

    def _why_wrong_of(self, number: int, rollouts: Rollouts, sampling: Sampling) -> str | None:
        arm, texts = self.arms[number], self._texts[number]
        if longest_text(rollouts) <= texts.longest:
            return None
        with acting_as(self._policy.attachment, arm):
            reason = texts.why_not(rollouts, sampling)
        return None if reason is None else f"the answers of arm {arm.name} are wrong: {reason}"

    def _answer_made_up(
        self, number: int, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Rollouts:
        """Answers made-up prompts as an arm does, beside the other arms if they share flights."""
        request = Request(prompts=prompts, sampling=sampling, seed=0, step=0)
        if self.why_not_together() is not None:
            return self._generate(request)
        outcome = self._fly([request] * len(self.arms), FEW_SLOTS)[number]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    # ---- one after another

    def _alone(self, number: int, request: Request) -> Outcome:
        try:
            with acting_as(self._policy.attachment, self.arms[number]):
                rollouts = self._generate(request)
        except FloatingPointError as error:
            if self._policy.sharding.shards:  # the other processes wait for this one
                raise
            return error
        if not isinstance(self._engine, DecodeEngine | GenerateEngine | ExactEngine):
            reason = self._why_wrong_of(number, rollouts, request.sampling)
            if reason is not None:
                raise ConfigError(
                    "BenchmarkEval.arms",
                    self.arms[number].name,
                    rule=reason,
                    why=f"model.engine, {type(self._engine).__name__}, does not follow the scale "
                    "and the layers left out of the policy's attachment",
                    fix="Use DecodeEngine or GenerateEngine, or leave the arms out",
                )
        return rollouts

    def _generate(self, request: Request) -> Rollouts:
        rollouts: Rollouts = self._engine.generate(
            request.prompts,
            request.sampling,
            seed=request.seed,
            step=request.step,
            on_completion=request.on_completion,
        )
        return rollouts


def evaluate_arms(
    metrics: Sequence[BenchmarkMetrics],
    answers: ArmAnswers,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    verifier: RewardSum,
    seed: int,
) -> dict[str, str]:
    """Answers prompts by K arms and adds their verdicts to their metrics.

    All arms draw the same random numbers, so that they differ only by what steers them.

    Args:
        metrics: Metrics of each arm, changed in place.
        answers: The arms, the trained vectors first.
        prompts: The B problems; may be empty.
        sampling: Settings for answering the problems, with `group_size` completions each.
        verifier: Reward that returns 1 for right, 0 for wrong, None for what can't be judged.
        seed: Seed of the run.

    Returns:
        The reasons why arms have no answers, by their names.

    Raises:
        FloatingPointError: If the logits of the trained vectors are not finite.
    """
    if not prompts:
        return {}
    asked: dict[str, Any] = {"prompts": prompts, "sampling": sampling, "seed": seed}
    failed = {}
    with ExitStack() as stack:
        scorings = [stack.enter_context(closing(verifier.start())) for _ in answers.arms]
        requests = [
            Request(step=EVALUATION_STEP, on_completion=scoring.add, **asked)
            for scoring in scorings
        ]
        outcomes = answers.answer(requests)
        for number, (arm, outcome) in enumerate(zip(answers.arms, outcomes, strict=True)):
            if isinstance(outcome, Exception):
                if number == 0 or not isinstance(outcome, FloatingPointError):
                    raise outcome
                failed[arm.name] = "its logits are not finite"
                continue
            verdicts = scorings[number].result(completions_of(outcome)).total
            metrics[number].update_with(outcome, verdicts)
    return failed
