"""The callback that saves and ends a run at a signal, so that the same command resumes it."""

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
"""Signals by which clusters announce that a job will end: SLURM's pre-emption and time limit."""


PATIENCE = 20.0
"""Seconds that callbacks have after a failure before the other processes are informed of it."""


class GracefulStop(Callback):
    """Finishes the step at SIGTERM or SIGUSR1, saves a checkpoint and exits with 128 + the signal.

    Before the first step and during the last evaluation, it exits at once. After a second signal,
    or a second Ctrl-C, it exits at once in any case. Under SLURM, it first calls Lightning's
    handler, which puts the job back into the queue. This callback should be the last one of a run,
    and its `SignalWatch` the first; the command line places both.

    Cost: none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: int | None = None
        self._is_stepping = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over the signals from Lightning, which would only log them."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers only in the main thread
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        if trainer.received_sigterm:  # the signal came just before this handler was set
            self._handle(signal.SIGTERM, None)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Marks the start of a step; a signal now waits for the end of the step."""
        self._is_stepping = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves and exits if a signal came during the step."""
        if self._agreed():
            bring_up_to_date(trainer)
            self._exit()

    def _agreed(self) -> bool:
        """Tells whether any process has received a signal; then all of them stop after the step."""
        self._received = largest(self._received or 0) or None
        return self._received is not None

    def at_train_end(self, trainer: L.Trainer) -> None:
        """Saves after the last step; from here on, a signal need not wait for anything."""
        bring_up_to_date(trainer)
        self._is_stepping = False
        if self._agreed():
            self._exit()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back to their earlier handlers."""
        self._give_back()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back to their earlier handlers; a second Ctrl-C exits at once."""
        if callable(self._before.get(signal.SIGTERM)):
            # Lightning's handler makes a collective call, which other processes may never join
            self._before[signal.SIGTERM] = signal.SIG_DFL
        self._give_back()
        self._received, self._is_stepping = None, False  # a further run with this object goes on
        # otherwise Lightning would ignore any further Ctrl-C until it has shut down
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))

    def request(self, number: int) -> None:
        """Asks for the end of the run after the current step, as if the signal had come.

        Args:
            number: Number of the signal.
        """
        self._received = number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = number
        name = signal.Signals(number).name
        if not self._is_stepping:
            self._exit()
        told = f"\n{name}: finishing the step and saving; send it again to exit at once\n"
        os.write(2, told.encode())  # print() fails if the signal has interrupted another print()

    def _exit(self) -> None:
        assert self._received is not None
        before = self._before.get(self._received)
        # a callable handler is Lightning's, which makes SLURM requeue the job
        if callable(before) and self._received != signal.SIGTERM:
            # to requeue the job, SLURM sends SIGTERM; this process ends by itself anyway
            self._before[signal.SIGTERM] = signal.SIG_IGN
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            before(self._received, None)
        # launchers treat a nonzero status of any process but the first as a failure
        raise SystemExit(128 + self._received if rank() == 0 else 0)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


class SignalWatch(Callback):
    """Makes a `GracefulStop` handle signals before any other callback acts, which may take long.

    Cost: none.

    Args:
        stop: Callback that handles the signals; it is the last one, since it may end the run.
    """

    def __init__(self, stop: GracefulStop) -> None:
        super().__init__()
        self.stop = stop

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over the signals before the first evaluation."""
        self.stop.on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the last step before the last evaluation."""
        self.stop.at_train_end(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Lets a second Ctrl-C exit, before other callbacks save their results."""
        self.stop.on_exception(trainer, pl_module, exception)
        # a callback that waits for the other processes, such as at the barrier of a checkpoint,
        # would wait forever; once the others are informed, they end, and the wait ends, too
        told = threading.Timer(PATIENCE, trainer.strategy.on_exception, [exception])
        told.daemon = True
        told.start()
