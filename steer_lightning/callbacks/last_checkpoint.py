"""The callback that writes, after every step, the checkpoint from which a run can resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning.callbacks.checkpoint_file import load_checkpoint, save_checkpoint
from steer_lightning.callbacks.run_folder import claim, run_folder
from steer_lightning.errors import ConfigError
from steer_lightning.system.run_files import CHECKPOINTS, LAST_CHECKPOINT


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints aside with a checksum, and loads them without running code from them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Saves a checkpoint; see Lightning's `CheckpointIO`."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads a checkpoint; `weights_only` is always true. See Lightning's `CheckpointIO`."""
        return load_checkpoint(Path(path), map_location)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` up to date after every step.

    A checkpoint takes only kilobytes, so an interrupted run need not lose a step. This callback
    works together with a `ModelCheckpoint` that the user has configured.

    Cost: milliseconds and some kilobytes per step.

    Args:
        every_n_steps: Number of steps between two checkpoints.
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
        """Places the checkpoint in the run's folder; refuses a folder that holds another run's."""
        if stage == "fit":
            claim(trainer, f"{CHECKPOINTS}/{LAST_CHECKPOINT}")
            self.saved_step = 0
        self.dirpath = str(run_folder(trainer) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also saves a checkpoint when a resumed run has no step left to train."""
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

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves once more, for what callbacks have learned from the validation of a step.

        `trainer.validate` saves nothing: it may measure another module, or an earlier checkpoint.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        super().on_validation_end(trainer, pl_module)
        if self.saved_step == trainer.global_step > 0 and not trainer.sanity_checking:
            trainer.save_checkpoint(run_folder(trainer) / CHECKPOINTS / LAST_CHECKPOINT)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing, since a resumed run has a folder of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores nothing, since a resumed run has a folder of its own."""


def bring_up_to_date(trainer: L.Trainer) -> None:
    """Saves the last step if a `LastCheckpoint` exists that has not done so."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint) and callback.saved_step != trainer.global_step:
            trainer.save_checkpoint(run_folder(trainer) / CHECKPOINTS / LAST_CHECKPOINT)
            callback.saved_step = trainer.global_step
