"""Checkpoints to go on from: written after every step, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import ModelCheckpoint

from steer_lightning.callbacks.checkpoint_file import load_checkpoint, save_checkpoint
from steer_lightning.callbacks.run_folder import claim, run_folder
from steer_lightning.errors import ConfigError
from steer_lightning.system.run_files import CHECKPOINTS, LAST_CHECKPOINT


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Checkpoints with a checksum, written aside, loaded without running their code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """See `lightning.fabric.plugins.CheckpointIO`."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `lightning.fabric.plugins.CheckpointIO`; `weights_only` is always true."""
        return load_checkpoint(Path(path), map_location)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` up to date after every step.

    A checkpoint is kilobytes, so an interrupted run need lose no step. It stands beside any
    `ModelCheckpoint` of the user's own.

    Cost: milliseconds and some kilobytes a step.

    Args:
        every_n_steps: Steps between two of them.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ConfigError(
                "LastCheckpoint.every_n_steps", every_n_steps, rule="must be at least 1"
            )
        super().__init__(
            save_last=True,
            save_top_k=0,
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self.saved_step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Places it in the run's folder; refuses one that holds another run's."""
        if stage == "fit":
            claim(trainer, f"{CHECKPOINTS}/{LAST_CHECKPOINT}")
        self.dirpath = str(run_folder(trainer) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also leaves one when the run goes on with its last step already behind it."""
        bring_up_to_date(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves every n steps."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step % self.every_n_steps == 0:
            self.saved_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a resumed run has a folder of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing, for the same reason."""


def bring_up_to_date(trainer: L.Trainer) -> None:
    """Saves the last step, if there is a `LastCheckpoint` and it has not done so."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint) and callback.saved_step != trainer.global_step:
            trainer.save_checkpoint(run_folder(trainer) / CHECKPOINTS / LAST_CHECKPOINT)
            callback.saved_step = trainer.global_step
