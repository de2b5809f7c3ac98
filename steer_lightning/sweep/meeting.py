"""The collective calls of experiments that run side by side in several processes.

Each process runs the experiments in turns of its own. An experiment that comes to a collective call
waits there, until in every process all experiments wait for one or have ended. Then the processes
tell each other where each experiment is, in one exchange. Where all processes are at the same call,
the experiment makes it. Otherwise it has failed in one of them, and ends in all, while the others
go on.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from steer_lightning.sweep.lanes import COLLECTIVE, Lane, State
from steer_lightning.system.collectives import gather_objects

END, STOP = "its end", "its end at a signal"
"""Places of experiments that have ended."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an experiment has failed in a process."""

    reason: str
    """Type and text of the error."""
    trace: str
    """Traceback of the error."""


class OtherProcessError(RuntimeError):
    """The experiment has failed in another process."""


class CutOff(BaseException):  # no error of an experiment, so it passes by its handlers
    """A collective call has failed, so the processes can't go on together."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Meeting:
    """Lets experiments make a collective call only when they are at the same one in all processes.

    Args:
        is_failing: Function that tells whether an experiment, by its number, is handling an error.
            What it calls then is not asked of the other processes, which would not do the same.
        gather: Function that returns the objects of all processes.
    """

    def __init__(
        self,
        is_failing: Callable[[int], bool] = lambda number: False,
        gather: Callable[[Any], list[Any]] = gather_objects,
    ) -> None:
        self._is_failing, self._gather = is_failing, gather
        self._over: set[int] = set()  # experiments that have ended, the same in all processes
        self._here = threading.local()
        self._cut_off: CutOff | None = None

    # ---- in the thread of an experiment

    def enter(self, lane: Lane) -> None:
        """Counts the calls of this thread as those of a lane."""
        self._here.lane = lane

    @contextmanager
    def door(self, name: str) -> Iterator[bool]:
        """Waits until the experiment may make a call; see `collectives.passing`.

        Raises:
            OtherProcessError: If the experiment has failed in another process.
        """
        lane: Lane | None = getattr(self._here, "lane", None)
        if lane is None:  # a call of the sweep itself, or within another call
            yield True
            return
        if lane.number in self._over or self._is_failing(lane.number):
            yield False
            return
        lane.call(COLLECTIVE, name)
        self._here.lane = None
        try:
            yield True
        except BaseException as error:  # others may wait for this process in the same call
            self._cut_off = CutOff(error)
            raise
        finally:
            self._here.lane = lane

    # ---- in the thread of the sweep

    def meet(self, lanes: Sequence[Lane]) -> None:
        """Lets lanes that wait for a collective call know whether to make it.

        All processes must call this together. Every lane waits or has ended.

        Args:
            lanes: All lanes.

        Raises:
            CutOff: If the processes can't reach each other.
        """
        if self._cut_off is not None:
            raise self._cut_off
        waiting = [lane for lane in lanes if lane.number not in self._over]
        try:
            found = self._gather([_place(lane) for lane in waiting])
        except Exception as error:
            raise CutOff(error) from error
        for lane, *places in zip(waiting, *found, strict=True):
            self._tell(lane, places)

    def _tell(self, lane: Lane, places: Sequence[str | Failure]) -> None:
        is_same = isinstance(places[0], str) and len(set(places)) == 1
        if not is_same or places[0] in (END, STOP):
            self._over.add(lane.number)
        if is_same:
            return
        error = OtherProcessError(_told(places))
        if lane.state is State.WAITING:
            lane.answer = error
        elif lane.error is None or isinstance(lane.error, SystemExit):
            lane.error = error

    def end(self, lanes: Sequence[Lane]) -> None:
        """Takes part until all lanes have ended in all processes; here, they have."""
        while len(self._over) < len(lanes):
            self.meet(lanes)


def _place(lane: Lane) -> str | Failure:
    """Returns where a lane is."""
    if lane.state is State.WAITING:
        return str(lane.request) if lane.kind == COLLECTIVE else lane.kind
    if lane.error is None:
        return END
    if isinstance(lane.error, SystemExit):
        return STOP
    trace = "".join(traceback.format_exception(lane.error))
    return Failure(reason=f"{type(lane.error).__name__}: {lane.error}", trace=trace)


def _told(places: Sequence[str | Failure]) -> str:
    """Returns the first failure with its traceback or, without one, the different places."""
    for number, place in enumerate(places):
        if isinstance(place, Failure):
            return f"process {number}: {place.reason}\n{place.trace}".rstrip()
    told = ", ".join(f"process {number} at {place}" for number, place in enumerate(places))
    return (
        f"the processes of the experiment have come to different places ({told}). A callback, a "
        "reward or other code of yours may do something in one process only; it must make each "
        "collective call in all of them"
    )
