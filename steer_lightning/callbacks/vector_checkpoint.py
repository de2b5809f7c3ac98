"""The callback that keeps a file of the trained vectors up to date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from steer_lightning.callbacks.run_folder import claim
from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import EVERY_VECTORS, step_name

log = logging.getLogger(__name__)


class VectorCheckpoint(Callback):
    """Writes the result of training every n steps, at the end and when the run is interrupted.

    The file, such as `steering_vectors.safetensors`, holds only the result. To resume training, use
    Lightning's checkpoints.

    Cost: milliseconds and some kilobytes each time.

    Args:
        every_n_steps: Number of steps between two writes.
        keep_all: Whether to also keep the result of each write, as a file such as
            `vectors/step_000010.safetensors`, or as a folder `vectors/step_000010` if the result is
            a folder, as for LoRA.
    """

    def __init__(self, every_n_steps: int = 10, keep_all: bool = False) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ConfigError(
                "VectorCheckpoint.every_n_steps", every_n_steps, rule="must be at least 1"
            )
        self.every_n_steps, self.keep_all = every_n_steps, keep_all

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds the vectors of another run."""
        if stage == "fit":
            assert isinstance(pl_module, SteeringModule)
            self.path = claim(trainer, pl_module.policy.steering.file_name)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Writes every n steps."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, pl_module, self.path)
            if self.keep_all:
                name = f"{step_name(trainer.global_step)}{self.path.suffix}"
                self._save(trainer, pl_module, self.path.parent / EVERY_VECTORS / name)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the final vectors."""
        self._save(trainer, pl_module, self.path)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does the same for a resumed run that has no step left to train."""
        if not self.path.exists():
            self._save(trainer, pl_module, self.path)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Writes the current vectors; a failure to do so must not hide the exception."""
        if trainer.global_step > 0:
            try:
                self._save(trainer, pl_module, self.path)
            except (OSError, ConfigError) as error:  # a full disk, or vectors that are not finite
                told = one_line(error)
                log.warning("the vectors of step %d were not saved: %s", trainer.global_step, told)

    def _save(self, trainer: L.Trainer, module: L.LightningModule, path: Path) -> None:
        assert isinstance(module, SteeringModule)
        if trainer.is_global_zero:
            module.policy.steering.save(
                path,
                base_model=module.policy.base,
                revision=module.policy.commit,
                step=trainer.global_step,
            )
