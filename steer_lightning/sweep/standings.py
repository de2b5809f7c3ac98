"""How far the experiments of a sweep are, and tables of it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

import lightning as L

from steer_lightning.sweep.lane_module import LaneModule
from steer_lightning.sweep.lanes import State
from steer_lightning.system.figures import rounded
from steer_lightning.system.printable import aligned
from steer_lightning.training.step import Step

NAME = 32
"""Largest number of characters of a name in the progress bar, which must leave room for the bar."""

RECENT = 5
"""Number of steps whose mean is the reward of an experiment, as in the progress bar of `fit`."""

Accuracy = dict[str, tuple[float | None, float | None]]
"""Accuracy before the first step and at the last evaluation, by what was measured."""


class Status(Enum):
    """What has become of an experiment."""

    WAITING = "waiting"
    """It has not trained a step."""
    TRAINING = "training"
    """It trains."""
    DONE = "done"
    """It has ended as it should."""
    STOPPED = "stopped"
    """It is saved, because a signal has come."""
    FAILED = "failed"
    """It has raised an error."""


@dataclass(kw_only=True)
class Standing:
    """How far one experiment is."""

    name: str
    """Name of the experiment."""
    module: LaneModule
    """Its module."""
    trainer: L.Trainer
    """Its trainer."""
    accuracy: Callable[[], Accuracy] = dict
    """Function that returns its accuracy so far."""
    folder: str = ""
    """The run's folder."""
    step: int = 0
    """Number of steps trained, those before an interruption among them."""
    total: int | None = None
    """Number of steps of the whole run; None while it is not known, or if nothing bounds it."""
    status: Status = Status.WAITING
    """What has become of it."""
    _rewards: list[float] = field(default_factory=list)
    _seen: Step | None = None

    def look(self) -> None:
        """Reads how far the experiment is; cheap if it has not trained a step since."""
        module, lane = self.module, self.module.lane
        self.step = self.trainer.global_step
        if module.last_step is not None and module.last_step is not self._seen:
            self._seen = module.last_step
            self._add(float(self._seen.rewards.nanmean()))
            most = self.trainer.estimated_stepping_batches
            self.total = int(most) if math.isfinite(most) else None
        if lane.state is not State.ENDED:
            self.status = Status.WAITING if self._seen is None else Status.TRAINING
            return
        self.status = {True: Status.DONE, False: Status.FAILED}[lane.error is None]
        if isinstance(lane.error, SystemExit | KeyboardInterrupt):
            self.status = Status.STOPPED
        self.total = self.step  # no further step follows

    def _add(self, reward: float) -> None:
        # NaN if no completion of the batch could be scored, infinite beyond float32's range
        if math.isfinite(reward):
            self._rewards = [*self._rewards[1 - RECENT :], reward]

    @property
    def reward(self) -> float | None:
        """The mean reward of the last steps; None if there is none, or if it has failed."""
        if not self._rewards or self.status is Status.FAILED:
            return None
        return sum(self._rewards) / len(self._rewards)


def steps(standings: Sequence[Standing]) -> tuple[int, int | None]:
    """Returns the steps of all experiments that are done, and those that there are.

    An experiment that has not trained a step yet counts as many as the longest of the others.
    """
    known = [standing.total for standing in standings if standing.total is not None]
    if not known or any(x.total is None and x.status is Status.TRAINING for x in standings):
        return sum(standing.step for standing in standings), None
    totals = [max(known) if x.total is None else x.total for x in standings]
    return sum(standing.step for standing in standings), sum(totals)


def in_short(standings: Sequence[Standing]) -> str:
    """Returns the best reward with the name of its experiment, the median, and who has failed."""
    rewards = {number: x.reward for number, x in enumerate(standings) if x.reward is not None}
    failed = sum(standing.status is Status.FAILED for standing in standings)
    parts = []
    if rewards:
        best = max(rewards, key=rewards.__getitem__)
        name = standings[best].name
        shown = name if len(name) <= NAME else name[: NAME - 3] + "..."
        parts.append(f"best reward {rounded(rewards[best])} ({shown})")
        parts.append(f"median {rounded(median(rewards.values()))}")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


def live_table(standings: Sequence[Standing], most: int) -> list[str]:
    """Returns a table of what the experiments do: reward, accuracy and status of each.

    Args:
        standings: Experiments.
        most: Largest number of experiments in the table; the best are chosen if there are more.
    """
    shown, accuracies = _chosen(standings, most, in_order=True)
    measured = _measured(accuracies)
    rows = [["experiment", "step", "reward", *measured, "status"]]
    for standing, accuracy in zip(shown, accuracies, strict=True):
        of = "" if standing.total is None else f"/{standing.total}"
        last = [_share(accuracy.get(name, (None, None))[1]) for name in measured]
        figures = [f"{standing.step}{of}", _figure(standing.reward), *last]
        rows.append([standing.name, *figures, standing.status.value])
    return _lines(rows, len(standings) - len(shown), right=range(1, len(rows[0]) - 1))


def final_table(standings: Sequence[Standing], most: int = 10) -> list[str]:
    """Returns a table of the results: the best experiments first, with accuracy and folder.

    Args:
        standings: Experiments.
        most: Largest number of experiments in the table.
    """
    shown, accuracies = _chosen(standings, most, in_order=False)
    measured = _measured(accuracies)
    rows = [["experiment", "reward", *measured, "folder"]]
    for standing, accuracy in zip(shown, accuracies, strict=True):
        pairs = [accuracy.get(name, (None, None)) for name in measured]
        changes = [f"{_share(before)} -> {_share(after)}" for before, after in pairs]
        rows.append([standing.name, _figure(standing.reward), *changes, standing.folder])
    return _lines(rows, len(standings) - len(shown), right=range(1, len(rows[0]) - 1))


def _chosen(
    standings: Sequence[Standing], most: int, *, in_order: bool
) -> tuple[list[Standing], list[Accuracy]]:
    """Returns the experiments with the highest rewards, and their accuracies."""

    def place(number: int) -> tuple[float, int]:
        reward = standings[number].reward
        return (-math.inf if reward is None else reward), -number

    numbers = heapq.nlargest(most, range(len(standings)), key=place)
    shown = [standings[number] for number in (sorted(numbers) if in_order else numbers)]
    return shown, [standing.accuracy() for standing in shown]


def _measured(accuracies: Sequence[Accuracy]) -> list[str]:
    return list(dict.fromkeys(name for accuracy in accuracies for name in accuracy))


def _lines(rows: Sequence[Sequence[str]], num_left: int, right: range) -> list[str]:
    further = f"... and {num_left} further experiments with lower rewards, or without any"
    return [*aligned(rows, right).split("\n"), *([further] if num_left else [])]


def _figure(value: float | None) -> str:
    return "-" if value is None else rounded(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
