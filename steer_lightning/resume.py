"""What a checkpoint must have in common with the run that goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.policy import Policy

KEY = "steering_run"
"""Where a checkpoint keeps the facts of its run."""


def run_facts(policy: Policy, gradient_clip: object, optimizer: object) -> dict[str, Any]:
    """The settings under which a checkpoint's numbers have their meaning, by configuration key.

    Args:
        policy: Loaded.
        gradient_clip: It has state of its own.
        optimizer: So has this.
    """
    vectors = policy.steering
    return {
        "model.base": Path(policy.base).name,  # a moved folder is still the same model
        "model.revision": policy.commit,
        "model.steering.layers": list(vectors.layers),
        "model.steering.scale": policy.config.scale,
        "model.gradient_clip": type(gradient_clip).__name__,
        "model.optimizer": type(optimizer).__name__,
        "number of decoder layers": vectors.num_layers,
        "width": vectors.width,
    }


def check_same_run(saved: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raises a ConfigError that shows both sides if a checkpoint is of another run.

    Args:
        saved: Facts of the checkpoint; None if it has none.
        now: Facts of this run.
    """
    if saved is None:
        raise ConfigError(
            "ckpt_path",
            UNKNOWN,
            rule="is no checkpoint of a steer-lightning run",
            fix="Use a file of a run's folder checkpoints/, or set "
            "model.steering.init_from to a vectors file",
        )
    for key, value in now.items():
        if saved.get(key) != value:
            raise ConfigError(
                key,
                value,
                rule=f"the checkpoint was made with {saved.get(key)!r}",
                why="Its vectors and its optimizer's state mean something else here",
                fix="Set it as it was; or start anew from the vectors alone by "
                "model.steering.init_from",
            )


def check_not_finished(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Raises a ConfigError if a checkpoint has reached the end of the run already."""
    done = checkpoint["global_step"]
    if trainer.max_steps != -1 and done >= trainer.max_steps:
        raise ConfigError(
            "trainer.max_steps",
            trainer.max_steps,
            rule=f"the checkpoint has taken {done} steps already",
            fix=f"Set trainer.max_steps above {done} to go on",
        )
    epochs = trainer.max_epochs
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    cursor = checkpoint.get(type(data).__qualname__, {}).get("cursor")
    finished = cursor["epoch"] if cursor else 0
    if epochs not in (None, -1) and finished >= epochs:
        raise ConfigError(
            "trainer.max_epochs",
            epochs,
            rule=f"the checkpoint has gone through the data {finished} times already",
            fix=f"Set trainer.max_epochs above {finished} to go on",
        )
