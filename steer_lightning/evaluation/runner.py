"""The evaluation of a batch: problems go through an engine and a verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from steer_lightning.errors import ConfigError
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


def check_counts(
    benchmarks: Mapping[str, Source],
    batch_size: int,
    num_samples: int | None,
    pass_at: Sequence[int] | None,
) -> None:
    """Raises a ConfigError for no benchmarks, or for numbers of an evaluation below 1."""
    if not benchmarks:
        raise ConfigError("benchmarks", benchmarks, rule="must name at least one source")
    for key, value in (("batch_size", batch_size), ("num_samples", num_samples)):
        if value is not None and value < 1:
            raise ConfigError(key, value, rule="must be at least 1")
    if any(k < 1 for k in pass_at or []):
        raise ConfigError("pass_at", pass_at, rule="must contain numbers of at least 1")


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
