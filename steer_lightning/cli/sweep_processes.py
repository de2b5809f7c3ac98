"""The processes of a sweep: started, connected and ended once for all experiments."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from steer_lightning.cli.resumable_runs import is_first_process
from steer_lightning.cli.sweep_fit import ExperimentCLI
from steer_lightning.strategy import SteeringStrategy
from steer_lightning.training.resume import get_random_states


@contextmanager
def connected(experiments: Sequence[ExperimentCLI]) -> Iterator[None]:
    """Runs the block in all processes, if the configuration asks for several.

    The processes are started as `fit` starts them. The first one tells the others the folder and
    the checkpoint of each experiment, and which experiments have ended. The processes stay
    connected until the block has ended in this one, however many of the experiments end before.

    Args:
        experiments: All experiments of the sweep, also those that have ended.
    """
    strategies = [experiment.trainer.strategy for experiment in experiments]
    first = strategies[0]
    if not isinstance(first, SteeringStrategy) or _is_idle(first, experiments):
        yield
        return
    first.launcher.launch(_nothing)  # type: ignore[union-attr]  # all our strategies have one
    if is_first_process():
        first.tell([experiment.plan() for experiment in experiments])
    for experiment, strategy in zip(experiments, strategies, strict=True):
        # Lightning seeds all generators anew when it connects; see `fit`
        os.environ["PL_GLOBAL_SEED"] = str(experiment.model.seed)
        assert isinstance(strategy, SteeringStrategy)  # `trainer` is the same in all experiments
        strategy.connect_beside(first)
        experiment.random_states = get_random_states()
    try:
        for experiment, plan in zip(experiments, first.agreed, strict=True):
            experiment.follow(plan)
        yield
    except BaseException as error:
        first.leave(error)
        raise
    first.leave()


def _is_idle(strategy: SteeringStrategy, experiments: Sequence[ExperimentCLI]) -> bool:
    """Tells whether nothing is to be trained, and nobody else waits for this process."""
    environment = strategy.cluster_environment
    others_wait = environment is not None and environment.creates_processes_externally
    return not others_wait and all(experiment.ended for experiment in experiments)


def _nothing() -> None:
    """Takes the place of the function that Lightning's launcher calls in each process."""
