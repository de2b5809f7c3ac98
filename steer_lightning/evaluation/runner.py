"""The evaluation of a batch: problems go through an engine and a verifier."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from steer_lightning.evaluation.metrics import BenchmarkMetrics
from steer_lightning.rewards import RewardSum
from steer_lightning.rollout import RolloutEngine, Sampling, completions_of
from steer_lightning.types import Prompt, Source

EVALUATION_STEP = 2**32 - 1
"""Number used in place of the training step in the sampling seed of an evaluation.

Every evaluation of a run draws the same random numbers, so that two evaluations differ only by the
vectors. No training step reaches this number.
"""


def sampling_for(source: Source, sampling: Sampling) -> Sampling:
    """Returns the settings with which a benchmark is answered.

    Args:
        source: Source of its problems; an attribute `num_samples` sets the number of completions.
        sampling: Settings for all benchmarks.
    """
    return replace(sampling, group_size=getattr(source, "num_samples", sampling.group_size))


def evaluate_batch(
    metrics: BenchmarkMetrics,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    verifier: RewardSum,
    seed: int,
) -> None:
    """Answers prompts and adds the verdicts to `metrics`.

    Args:
        metrics: Metrics of the benchmark, changed in place.
        engine: Engine that has been set up with the policy.
        prompts: The B problems; may be empty.
        sampling: Settings for answering the problems, with `group_size` completions each.
        verifier: Reward that returns 1 for right, 0 for wrong, None for what can't be judged.
        seed: Seed of the run.
    """
    if not prompts:  # happens if there are fewer problems than processes
        return
    with closing(verifier.start()) as scoring:
        rollouts = engine.generate(
            prompts, sampling, seed=seed, step=EVALUATION_STEP, on_completion=scoring.add
        )
        verdicts = scoring.result(completions_of(rollouts)).total
    metrics.update_with(rollouts, verdicts)
