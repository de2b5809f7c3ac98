"""Ends a run at a signal, saved, so that the same command goes on with it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.last_checkpoint import bring_up_to_date
from steer_lightning.system.collectives import largest, rank

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""How clusters announce that they take a machine away: SLURM's pre-emption and time limit."""


PATIENCE = 20.0
"""Seconds that callbacks have at a failure, before the other processes are told of it."""


class GracefulStop(Callback):
    """At SIGTERM or SIGUSR1 finishes the step, saves a checkpoint and exits with 128 + the signal.

    Before the first step and in the last evaluation it exits at once; a second signal, or a second
    Ctrl-C, does so anywhere. Under SLURM, Lightning's handler that puts the job back into the queue
    is called first. It should be the last callback of a run, and its `SignalWatch` the first; the
    command line sees to both.

    Cost: none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: int | None = None
        self._is_stepping = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over from Lightning, which would only log them."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return  # Python allows it in the main thread alone
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        if trainer.received_sigterm:  # a moment ago
            self._handle(signal.SIGTERM, None)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here on a signal waits for the end of a step."""
        self._is_stepping = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves and exits, if a signal came during the step."""
        if self._agreed():
            bring_up_to_date(trainer)
            self._exit()

    def _agreed(self) -> bool:
        """Whether any process has received a signal; then all of them stop behind this step."""
        self._received = largest(self._received or 0) or None
        return self._received is not None

    def at_train_end(self, trainer: L.Trainer) -> None:
        """Steps are over; what comes now need not be waited for."""
        bring_up_to_date(trainer)
        self._is_stepping = False
        if self._agreed():
            self._exit()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """From now on a second Ctrl-C exits."""
        if callable(self._before.get(signal.SIGTERM)):
            # Lightning's is a collective call, for which the other processes may not come any more
            self._before[signal.SIGTERM] = signal.SIG_DFL
        self._give_back()
        # Lightning ignores further Ctrl-C while it shuts down, however long that takes
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = number
        name = signal.Signals(number).name
        if not self._is_stepping:
            self._exit()
        told = f"\n{name}: finishing the step and saving; once more to exit at once\n"
        os.write(2, told.encode())  # print() fails if the signal came in the middle of another

    def _exit(self) -> None:
        assert self._received is not None
        before = self._before.get(self._received)
        if callable(before) and self._received != signal.SIGTERM:  # SLURM's requeue
            # with which SLURM ends the job: by a SIGTERM to what is about to end by itself
            self._before[signal.SIGTERM] = signal.SIG_IGN
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            before(self._received, None)
        # a launcher would take the status of another process than the first for a failure
        raise SystemExit(128 + self._received if rank() == 0 else 0)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


class SignalWatch(Callback):
    """Gives signals to a `GracefulStop` before any other callback acts, which may take long.

    Cost: none.

    Args:
        stop: What handles them; it is the last callback, since it may end the run.
    """

    def __init__(self, stop: GracefulStop) -> None:
        super().__init__()
        self.stop = stop

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the first evaluation."""
        self.stop.on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the last evaluation."""
        self.stop.at_train_end(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Before others save what they have."""
        self.stop.on_exception(trainer, pl_module, exception)
        # one that waits for the other processes, as a checkpoint's barrier, would do so for ever:
        # once they know they end, and then its wait does
        told = threading.Timer(PATIENCE, trainer.strategy.on_exception, [exception])
        told.daemon = True
        told.start()
