"""The callback that ends what scores completions, whether a run ends regularly or fails."""

from __future__ import annotations

import lightning as L

from steer_lightning.rewards import RewardSum


class ScoringEnd(L.Callback):
    """Ends the processes and threads of rewards when a run ends.

    Lightning calls `teardown` only at a regular end. In a notebook, processes would outlive a run
    that fails, for instance because memory runs out.

    Cost: none.

    Args:
        rewards: Rewards of the run.
    """

    def __init__(self, *rewards: RewardSum) -> None:
        self.rewards = rewards

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ends them at a regular end."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Ends them at an error or an interruption."""
        self._close()

    def _close(self) -> None:
        for reward in self.rewards:
            reward.close()
