"""Ends a run at a signal, saved, so that the same command goes on with it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.last_checkpoint import FOLDER, LastCheckpoint
from steer_lightning.callbacks.run_folder import run_folder
from steer_lightning.checkpoint_file import LAST

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""How clusters announce that they take a machine away: SLURM's pre-emption and time limit."""


class GracefulStop(Callback):
    """At SIGTERM or SIGUSR1 finishes the step, saves a checkpoint and exits with 128 + the signal.

    Before the first step and in the last evaluation it exits at once; a second signal, or a second
    Ctrl-C, does so anywhere. Under SLURM, Lightning's handler that puts the job back into the queue
    is called first.

    Cost: none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: int | None = None
        self._is_stepping = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over from Lightning, which would only log them."""
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here on a signal waits for the end of the step."""
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
        if self._received is None:
            return
        if any(isinstance(other, LastCheckpoint) for other in trainer.checkpoint_callbacks):
            trainer.save_checkpoint(run_folder(trainer) / FOLDER / LAST)
        self._exit()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Steps are over, for this epoch or for good."""
        self._is_stepping = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """From now on a second Ctrl-C exits."""
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
            before(self._received, None)
        raise SystemExit(128 + self._received)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
