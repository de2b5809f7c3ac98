"""The trainer knows which callback has stopped its run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from steer_lightning.training.stopping import NamingTrainer


def stop(trainer: Any) -> None:
    trainer.should_stop = True


class Outer(Callback):
    """Sets the flag in a function of its own module, and is followed by another one."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            stop(trainer)


class Follower(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or False


class Model(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("loss", torch.tensor(1.0))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("callbacks", "told", "steps"),
    [
        ([Follower(), Outer(), Follower()], "the callback Outer has stopped it", 2),
        ([Timer(timedelta(0))], "trainer.max_time was reached", 0),
        (
            [EarlyStopping("loss", patience=1, check_on_train_epoch_end=True)],
            "the callback EarlyStopping, which watches loss, has stopped it",
            8,
        ),
        ([Follower()], None, 9),
    ],
)
def test_the_callback_that_stops_a_run_is_named(
    callbacks: list[Callback], told: str | None, steps: int
) -> None:
    options: dict[str, Any] = {"max_steps": 9, "limit_train_batches": 4, "accelerator": "cpu"}
    options |= {
        "logger": False,
        "limit_val_batches": 0,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = NamingTrainer(callbacks=callbacks, enable_progress_bar=False, **options)
    trainer.fit(Model())
    assert (trainer.stopped_by, trainer.global_step) == (told, steps)
