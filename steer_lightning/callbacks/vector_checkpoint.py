"""The callback that keeps files of the trained vectors: the last ones and the best ones."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning.callbacks.best_result import (
    NUM_REWARDS,
    SMOOTHED,
    VALIDATION,
    Kept,
    benchmark_value,
    kept_now,
    metric_of,
    restored,
    state_of,
)
from steer_lightning.callbacks.run_folder import claim
from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import BEST, EVERY_VECTORS, step_name

log = logging.getLogger(__name__)


class VectorCheckpoint(Callback):
    """Writes the result of training every n steps, at the end and when the run is interrupted.

    The file, such as `steering_vectors.safetensors`, holds only the result. To resume training, use
    Lightning's checkpoints.

    The best result is kept beside it as `best.safetensors`, or as a folder `best` for LoRA. It is
    written whenever a better one comes, judged by the accuracy on held-out problems if the run
    measures one every few steps, and otherwise by the smoothed reward; see
    `callbacks.best_result`.

    Cost: milliseconds and some kilobytes each time. The best result is held in memory and in each
    checkpoint, too, so that a resumed run has it; if rewards decide, so is the one that is being
    judged. For full fine-tuning, each of these is as large as the base in float32.

    Args:
        every_n_steps: Number of steps between two writes.
        keep_all: Whether to also keep the result of each write, as a file such as
            `vectors/step_000010.safetensors`, or as a folder `vectors/step_000010` if the result is
            a folder, as for LoRA.
        keep_best: Whether to also keep the best result.

    Attributes:
        path: Where the last result is written.
        best_path: Where the best result is written.
        best: Best result so far; None if there is none yet.
    """

    def __init__(
        self, every_n_steps: int = 10, keep_all: bool = False, keep_best: bool = True
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ConfigError(
                "VectorCheckpoint.every_n_steps", every_n_steps, rule="must be at least 1"
            )
        self.every_n_steps, self.keep_all, self.keep_best = every_n_steps, keep_all, keep_best
        self._forget()

    def _forget(self) -> None:
        self.best: Kept | None = None
        self._judged: Kept | None = None  # vectors whose rewards are being smoothed
        self._rewards: list[float] = []
        self._metric = ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses a folder that holds the vectors of another run, and forgets an earlier run."""
        if stage == "fit":
            assert isinstance(pl_module, SteeringModule)
            self.path = claim(trainer, pl_module.policy.steering.file_name)
            self.best_path = claim(trainer, f"{BEST}{self.path.suffix}")
            self._forget()  # a resumed run gets its own from the checkpoint, after this

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Chooses what vectors are judged by, and writes the best ones of a resumed run."""
        self._metric = metric_of(trainer) if self.keep_best else ""
        if not self.keep_best:
            self.best = self._judged = None
        if self.best is not None and trainer.is_global_zero:
            self.best.write(self.best_path)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Judges benchmarks that a callback behind this one has measured after the last step."""
        self._judge_benchmarks(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Writes every n steps, and judges the vectors."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, pl_module, self.path)
            if self.keep_all:
                name = f"{step_name(trainer.global_step)}{self.path.suffix}"
                self._save(trainer, pl_module, self.path.parent / EVERY_VECTORS / name)
        self._judge_benchmarks(trainer, pl_module)
        if self._metric == SMOOTHED:
            self._smooth(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judges the vectors by a validation that has just ended, if it belongs to the training."""
        value = trainer.callback_metrics.get(VALIDATION)
        of_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if of_training and self._metric == VALIDATION and value is not None:
            self._judge(trainer, pl_module, float(value))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the final vectors."""
        self._save(trainer, pl_module, self.path)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the vectors of a resumed run that has no step left, and judges the final ones."""
        if not self.path.exists():
            self._save(trainer, pl_module, self.path)
        self._judge_benchmarks(trainer, pl_module)

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

    def state_dict(self) -> dict[str, Any]:
        """Returns the best result, and the one that is being judged."""
        return {
            "best": state_of(self.best),
            "judged": state_of(self._judged),
            "rewards": self._rewards,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best result, and the one that is being judged."""
        self.best, self._judged = restored(state_dict["best"]), restored(state_dict["judged"])
        self._rewards = list(state_dict["rewards"])

    def _judge_benchmarks(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._metric.startswith(("benchmark/", "mean of ")) and trainer.global_step > 0:
            value = benchmark_value(trainer)
            if value is not None:
                self._judge(trainer, module, value)

    def _smooth(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Adds the reward of a step to those of the vectors that were put aside before it."""
        assert isinstance(module, SteeringModule)
        assert module.last_step is not None
        if self._judged is not None:
            self._rewards.append(float(module.last_step.rewards.nanmean()))
            if len(self._rewards) == NUM_REWARDS:
                scored = [reward for reward in self._rewards if math.isfinite(reward)]
                self._judged.value = math.fsum(scored) / len(scored) if scored else math.nan
                self._take(trainer, self._judged)
                self._judged = None
        if trainer.global_step % NUM_REWARDS == 0:
            self._judged = kept_now(trainer, module, self._metric, self.path.parent)
            self._rewards = []

    def _judge(self, trainer: L.Trainer, module: L.LightningModule, value: float) -> None:
        assert isinstance(module, SteeringModule)
        now = Kept(step=trainer.global_step, metric=self._metric, value=value)
        if now.is_better_than(self.best):
            now.files = kept_now(trainer, module, self._metric, self.path.parent).files
            self._take(trainer, now)

    def _take(self, trainer: L.Trainer, found: Kept) -> None:
        """Keeps a result if it is the best so far."""
        if found.is_better_than(self.best):
            self.best = found
            if trainer.is_global_zero:
                found.write(self.best_path)

    def _save(self, trainer: L.Trainer, module: L.LightningModule, path: Path) -> None:
        assert isinstance(module, SteeringModule)
        if trainer.is_global_zero:
            module.policy.steering.save(
                path,
                base_model=module.policy.base,
                revision=module.policy.commit,
                step=trainer.global_step,
            )
