"""The trainer of the command line, which remembers which callback stopped its run."""

from __future__ import annotations

import sys
from types import FrameType

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer


class NamingTrainer(L.Trainer):
    """A Lightning trainer that records which callback sets `should_stop`.

    Any callback may set it, and a run that ends before `trainer.max_steps` should be able to say
    why. All other callbacks set it again to its current value, so only the first one counts.

    Attributes:
        stopped_by: Reason why the run was stopped, as the end of a sentence; None while it runs.
    """

    stopped_by: str | None = None
    _should_stop = False

    @property
    def should_stop(self) -> bool:
        """Whether the run ends after the current step."""
        return self._should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        if value and not self._should_stop:
            self.stopped_by = _name(_setter())
        elif not value:
            self.stopped_by = None
        self._should_stop = value


def _setter() -> Callback | None:
    """Returns the innermost callback that is currently running; None if there is none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Callback):
            return found
        frame = frame.f_back
    return None


def _name(callback: Callback | None) -> str | None:
    if callback is None:
        return None
    if isinstance(callback, Timer):
        return "trainer.max_time was reached"
    name = f"the callback {type(callback).__name__}"
    if isinstance(callback, EarlyStopping):
        name += f", which watches {callback.monitor},"
    return f"{name} has stopped it"
