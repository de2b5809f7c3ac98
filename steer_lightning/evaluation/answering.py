"""The answers of one arm: as they are sampled, within a budget, or refined; and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from steer_lightning.evaluation.arms import Arm
from steer_lightning.evaluation.budget import answer_within
from steer_lightning.evaluation.refined_answers import answer_refined
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.evaluation.store import BACKWARD, FORWARD, PLAIN_SCORE, SCORE, SECONDS, Row
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import RolloutEngine, Sampling, completions_of
from steer_lightning.rollout.engine import OnCompletion
from steer_lightning.types import Completion, Prompt


def answer(
    policy: Policy,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    arm: Arm,
    seed: int,
    on_completion: OnCompletion,
) -> tuple[list[Completion], list[Row]]:
    """Answers prompts as an arm does.

    Args:
        policy: Loaded policy of the engine, steered as the arm demands.
        engine: Engine that answers.
        prompts: The B problems, at least one.
        sampling: Settings for answering the problems, with G completions each.
        arm: The arm.
        seed: Seed of the run.
        on_completion: Function that may be called with each row and its completion once it ends.

    Returns:
        The B * G completions, and the cost of each by the columns of the store; no cost within a
        budget. The seconds are the mean over the completions. The prompt counts for each
        completion, although an engine may read it once for all G of them.
    """
    started = perf_counter()
    if arm.budget is not None:
        within = answer_within(policy, engine, prompts, sampling, arm.budget, seed)
        return within, [{} for _ in within]
    if arm.refinement is not None:
        refinement = arm.refinement
        if arm.is_base:  # whose reward is 0, which needs no pass
            refinement = replace(refinement, reward_weight=0.0)
        refined = answer_refined(policy, engine, prompts, sampling, refinement, seed)
        completions = [found.completion for found in refined]
        costs: list[Row] = [
            {
                FORWARD: found.forward_tokens,
                BACKWARD: found.backward_tokens,
                PLAIN_SCORE: found.plain_score,
                SCORE: found.score,
            }
            for found in refined
        ]
    else:
        rollouts = engine.generate(
            prompts, sampling, seed=seed, step=EVALUATION_STEP, on_completion=on_completion
        )
        completions = completions_of(rollouts)
        lengths = [len(prompt.token_ids) for prompt in prompts for _ in range(sampling.group_size)]
        costs = [
            {FORWARD: length + completion.num_tokens, BACKWARD: 0}
            for length, completion in zip(lengths, completions, strict=True)
        ]
    seconds = (perf_counter() - started) / len(completions)
    return completions, [{**cost, SECONDS: seconds} for cost in costs]
