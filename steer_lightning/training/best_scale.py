"""The search for the scale of a direction with the highest held-out accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from steer_lightning.evaluation import BenchmarkMetrics, Estimate, difference, estimate
from steer_lightning.evaluation.intervals import Values
from steer_lightning.evaluation.runner import evaluate_batch
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import RewardSum
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The results at one scale."""

    scale: float
    """Factor of the direction."""
    accuracy: Estimate
    """Mean accuracy over problems, with its interval."""
    against_base: Estimate
    """Paired difference of accuracy from scale 0, with its interval."""
    completion_length: float
    """Mean number of tokens of a completion."""
    cut_off_share: float
    """Share of completions that were cut off at the token limit."""
    num_unscored: int
    """Number of completions without a verdict."""


def find_scale(
    policy: Policy,
    engine: RolloutEngine,
    direction: torch.Tensor,
    prompts: Sequence[Prompt],
    *,
    scales: Sequence[float],
    sampling: Sampling,
    verifier: RewardSum,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> list[Trial]:
    """Answers the same problems at each scale, with the same random numbers.

    Args:
        policy: Loaded policy with `SteeringVectors`, which are set to the best scale at the end.
        engine: Engine that has been set up with the policy.
        direction: Direction (L, D), to be multiplied by the scales.
        prompts: Prompts to answer, which are neither those used for the direction nor in the test
            set.
        scales: Scales to try; 0, the base, is always tried.
        sampling: Settings for sampling the answers.
        verifier: Reward that decides which answers are right.
        seed: Seed of the sampling.
        batch_size: Number of prompts to answer at once.
        progress: Whether to show a progress bar.

    Returns:
        One trial for each scale, ascending; `best_of` selects the best one.
    """
    steering = policy.steering
    assert isinstance(steering, SteeringVectors)
    order = sorted({0.0, *scales}, key=lambda scale: (scale != 0, scale))  # the base first
    found: dict[float, tuple[BenchmarkMetrics, Values]] = {}
    with tqdm(total=len(order) * len(prompts), unit="problem", disable=not progress) as bar:
        for scale in order:
            bar.set_description(f"scale {scale:g}")
            steering.set_vectors(direction * scale)
            engine.sync(steering)
            metrics = BenchmarkMetrics()
            for start in range(0, len(prompts), batch_size):
                batch = prompts[start : start + batch_size]
                evaluate_batch(metrics, engine, batch, sampling, verifier, seed)
                bar.update(len(batch))
            found[scale] = metrics, metrics.by_problem()
    base = found[0.0][1]
    trials = [_trial(scale, *found[scale], base) for scale in sorted(found)]
    steering.set_vectors(direction * best_of(trials).scale)
    engine.sync(steering)
    return trials


def _trial(scale: float, metrics: BenchmarkMetrics, values: Values, base: Values) -> Trial:
    numbers = metrics.result()
    return Trial(
        scale=scale,
        accuracy=estimate(values),
        against_base=difference(values, base),
        completion_length=numbers["completion_length"],
        cut_off_share=numbers["cut_off_share"],
        num_unscored=int(numbers["num_unscored"]),
    )


def best_of(trials: Sequence[Trial]) -> Trial:
    """Returns the most accurate trial; among equally accurate ones, the one nearest to the base."""
    return max(trials, key=lambda trial: (trial.accuracy.value, -abs(trial.scale)))
