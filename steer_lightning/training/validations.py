"""The validations during a run, and the refusal of options that would lead to none."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from steer_lightning.data.loader import batches_of_epoch
from steer_lightning.errors import ConfigError


def check_validations(trainer: L.Trainer, data: Any) -> None:
    """Raises a ConfigError for options that say when to validate if no validation would happen.

    Args:
        trainer: Trainer of the run.
        data: Data module of the run, whose prompts are loaded.
    """
    asked = _asked(trainer)
    if not asked or not trainer.limit_val_batches or has_validations(trainer, data):
        return
    key, value = next(iter(asked.items()))
    if "val" not in data.prompts:
        raise needs_problems(key, value)
    first, per_epoch = _first(trainer, data), _batches(trainer, data)
    if first == math.inf:
        raise ConfigError(
            f"trainer.{key}",
            value,
            rule=f"must be at most the {per_epoch} batches of an epoch",
            why="Batches are counted from the start of each epoch, so this number would never be "
            "reached",
            fix="Set trainer.check_val_every_n_epoch: null, which counts across epochs",
        )
    raise ConfigError(
        f"trainer.{key}",
        value,
        rule=f"leads to no validation: the first would follow step {first}, but the run has "
        f"{_steps(trainer, data)} steps",
        why=f"An epoch has {per_epoch} batches, and trainer.check_val_every_n_epoch is "
        f"{trainer.check_val_every_n_epoch}",
        fix="Set trainer.check_val_every_n_epoch: null and trainer.val_check_interval to a "
        "number of steps, or make the run longer",
    )


def needs_problems(key: str, value: object) -> ConfigError:
    """Returns the error for an option about validations if there are no problems for them."""
    return ConfigError(
        f"trainer.{key}",
        value,
        rule="needs data.val",
        why="It says when the problems of data.val are answered during the run",
        fix="Set data.val to a source of problems, or use the callback BenchmarkEval",
    )


def has_validations(trainer: L.Trainer, data: Any) -> bool:
    """Returns whether problems of `data.val` are, or may be, answered during a run.

    Args:
        trainer: Trainer of the run.
        data: Data module of the run, whose prompts are loaded.
    """
    if "val" not in data.prompts or not trainer.limit_val_batches:
        return False
    first = _first(trainer, data)
    return first < math.inf and first <= _steps(trainer, data)


def _asked(trainer: Any) -> dict[str, Any]:
    """Returns the options that say when to validate, unless they have Lightning's defaults."""
    found = {
        "val_check_interval": getattr(trainer, "val_check_interval", "by the clock"),
        "check_val_every_n_epoch": trainer.check_val_every_n_epoch,
        "limit_val_batches": trainer.limit_val_batches,
    }
    defaults = {"val_check_interval": 1.0, "check_val_every_n_epoch": 1, "limit_val_batches": 1.0}
    if trainer.fast_dev_run:  # fast_dev_run has set them
        return {}
    # the integer 1 means one batch, and 1.0 all batches
    return {key: value for key, value in found.items() if repr(value) != repr(defaults[key])}


def _first(trainer: Any, data: Any) -> float:
    """Returns the step after which the first validation happens; infinity if there is none."""
    per_epoch, every_n_epochs = _batches(trainer, data), trainer.check_val_every_n_epoch
    interval: int | float | None = getattr(trainer, "val_check_interval", None)
    if interval is None:  # it is a time
        return 1
    if every_n_epochs is None:
        return interval
    in_epoch = interval if isinstance(interval, int) else max(1, int(per_epoch * interval))
    if in_epoch > per_epoch:
        return math.inf
    found: int = (every_n_epochs - 1) * per_epoch + in_epoch
    return found


def _batches(trainer: Any, data: Any) -> int:
    """Returns the number of batches of an epoch."""
    return batches_of_epoch(
        len(data.prompts["train"]) // data.batch_size, trainer.limit_train_batches
    )


def _steps(trainer: Any, data: Any) -> float:
    """Returns the maximum number of steps of a run."""
    epochs = trainer.max_epochs
    by_epochs = math.inf if epochs in (None, -1) else epochs * _batches(trainer, data)
    return min(by_epochs, math.inf if trainer.max_steps == -1 else trainer.max_steps)
