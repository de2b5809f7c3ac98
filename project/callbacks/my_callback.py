"""A callback of this project: prints every few steps how many completions contain a word.

Callbacks only observe: after each step, `pl_module.last_step` has its prompts, completions and
rewards. They change neither the loss nor the data.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class CountWord(Callback):
    """Prints the share of completions that contain a word.

    Args:
        word: The word. A careful answer of the quickstart model begins with `Ones`.
        every_n_steps: Number of steps between two printed lines.
    """

    def __init__(self, word: str = "Ones", every_n_steps: int = 10) -> None:
        super().__init__()
        self.word, self.every_n_steps = word, every_n_steps

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Counts the completions of the step."""
        if trainer.global_step % self.every_n_steps == 0:
            texts = pl_module.last_step.rollouts.texts
            share = sum(self.word in text for text in texts) / len(texts)
            pl_module.print(f"{share:.0%} of {len(texts)} completions contain {self.word!r}")
