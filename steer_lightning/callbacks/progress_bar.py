"""The progress bar of the whole run, which also shows the reward."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from steer_lightning.module import SteeringModule
from steer_lightning.system.figures import rounded
from steer_lightning.system.showing import told_not_raised

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], low: float, high: float, width: int = 12) -> str:
    """Draws a series as a line of bars, each for the mean of one stretch of the series.

    Args:
        values: Series; values outside of `low` and `high` are drawn at these bounds.
        low: Value of the lowest bar.
        high: Value of the highest bar.
        width: Largest number of bars.
    """
    count = min(width, len(values))
    edges = [round(k * len(values) / count) for k in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    span = (high - low) or 1.0
    shares = [min(max((mean - low) / span, 0.0), 1.0) for mean in means]
    return "".join(BARS[round(share * (len(BARS) - 1))] for share in shares)


class SteeringProgressBar(TQDMProgressBar):
    """Shows the steps of the whole run, the reward and the speed.

    The bar shows the recent mean reward, a small curve of the reward, and the speed in tokens per
    second. The curve is drawn between the bounds of the rewards or, if these are unknown, between
    the smallest and the largest reward of any completion so far. If the curve were scaled to its
    own range, noise would look like progress.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._forget()

    def _forget(self) -> None:
        self._rewards: list[float] = []
        self._seen = (math.inf, -math.inf)  # smallest and largest reward of a completion

    def init_train_tqdm(self) -> Tqdm:
        """Makes a bar for the whole run instead of one epoch; a resumed run continues it."""
        self._forget()  # the rewards of an earlier run
        most = self.trainer.estimated_stepping_batches
        return Tqdm(
            desc="training",
            total=int(most) if math.isfinite(most) else None,
            initial=self.trainer.global_step,  # the time left is estimated from later steps only
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Does nothing: a run that resumes within an epoch does not start one."""

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
        finite = step.rewards[step.rewards.isfinite()].tolist()
        self._seen = min([self._seen[0], *finite]), max([self._seen[1], *finite])
        reward = float(step.rewards.nanmean())
        # NaN if no completion of the batch could be scored, infinite beyond float32's range
        if math.isfinite(reward):
            self._rewards.append(reward)
        recent = self._rewards[-5:] or [float("nan")]
        speed = float(step.num_tokens.sum()) / step.rollout_seconds
        bar = self.train_progress_bar
        if self.is_disabled:
            return
        if trainer.global_step % self.refresh_rate == 0 or trainer.global_step == bar.total:
            bar.n = trainer.global_step
            curve = sparkline(self._rewards, *(pl_module.reward.bounds or self._seen))
            reward = sum(recent) / len(recent)
            bar.set_postfix_str(f"reward {rounded(reward)} {curve}, {speed:,.0f} tokens/s")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does nothing, because the bar belongs to the run and not to the epoch."""

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Ends the bar's line, so that the messages that follow start on a line of their own."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
