"""A callback to copy: stops the run once the reward has stayed above a bound for some steps.

    trainer:
      callbacks:
        - class_path: callbacks.my_callback.StopWhenSolved
          init_args: {reward: 0.95, num_steps: 5}

Callbacks only observe: they read `pl_module.last_step` (rollouts, scores, rewards, advantages; see
`steer_lightning.training.step.Step`) and never change loss or data.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from steer_lightning import ConfigError


class StopWhenSolved(Callback):
    """Stops the run once the mean reward has been high enough for several consecutive steps.

    Args:
        reward: Smallest mean reward that is high enough.
        num_steps: Number of consecutive steps.
    """

    def __init__(self, reward: float = 0.95, num_steps: int = 5) -> None:
        super().__init__()
        if num_steps < 1:
            raise ConfigError("StopWhenSolved.num_steps", num_steps, rule="must be at least 1")
        self.reward, self.num_steps = reward, num_steps
        self._in_a_row = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Counts the consecutive steps with a high enough reward."""
        good = pl_module.last_step.rewards.nanmean().item() >= self.reward
        self._in_a_row = self._in_a_row + 1 if good else 0
        trainer.should_stop = trainer.should_stop or self._in_a_row >= self.num_steps

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs."""
        return {"in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the count."""
        self._in_a_row = state_dict["in_a_row"]
