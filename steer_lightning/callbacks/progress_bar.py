"""The progress bar of the whole run, which shows how the reward develops."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from steer_lightning.module import SteeringModule
from steer_lightning.system.showing import told_not_raised

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 12) -> str:
    """Draws a series as a line of bars, scaled from the smallest to the largest bar.

    Each bar is the mean of a stretch of the series.
    """
    count = min(width, len(values))
    edges = [round(k * len(values) / count) for k in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = (high - low) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


class SteeringProgressBar(TQDMProgressBar):
    """Shows the steps of the whole run, the reward and the speed.

    The reward appears as its recent mean and a small curve, the speed in tokens per second.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._rewards: list[float] = []

    def init_train_tqdm(self) -> Tqdm:
        """Makes a bar for the whole run instead of one epoch, which a resumed run goes on with."""
        most = self.trainer.estimated_stepping_batches
        return Tqdm(
            desc="training",
            total=int(most) if math.isfinite(most) else None,
            initial=self.trainer.global_step,  # the time left is reckoned from the steps since then
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Does nothing: a run that goes on within an epoch does not start one."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advances the bar by one step."""
        with told_not_raised("the progress bar of this step"):
            self._advance(trainer, pl_module)

    def _advance(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        step = pl_module.last_step
        assert step is not None
        reward = float(step.rewards.nanmean())
        # NaN if no completion of the batch could be scored, infinite beyond what float32 holds
        if math.isfinite(reward):
            self._rewards.append(reward)
        recent = self._rewards[-5:] or [float("nan")]
        speed = float(step.num_tokens.sum()) / step.rollout_seconds
        bar = self.train_progress_bar
        if self.is_disabled:
            return
        if trainer.global_step % self.refresh_rate == 0 or trainer.global_step == bar.total:
            bar.n = trainer.global_step
            bar.set_postfix_str(
                f"reward {sum(recent) / len(recent):.2f} {sparkline(self._rewards)}, "
                f"{speed:,.0f} tokens/s"
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does nothing, because the bar belongs to the run and not to the epoch."""

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Ends the bar's line, so that what is told of the end has lines of its own."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
