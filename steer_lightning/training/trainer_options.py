"""The options of Lightning's trainer: which ones are refused before a model is loaded, and why.

`docs/reference/trainer.md` describes what every option does here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning.data.loader import batches_of_epoch
from steer_lightning.errors import ConfigError
from steer_lightning.strategy import STRATEGIES, SteeringStrategy
from steer_lightning.training.validations import check_validations


@dataclass(frozen=True)
class _Rule:
    """An option for which only one value is allowed here.

    Attributes:
        option: Name of the option.
        value: Function that reads it from a trainer.
        only: Allowed value.
        rule: Rule that other values break.
        why: Reason for the rule.
        fix: Remedy.
    """

    option: str
    value: Callable[[Any], Any]
    only: Any
    rule: str
    why: str
    fix: str


BAREBONES = _Rule(
    "barebones",
    lambda trainer: trainer.barebones,
    False,
    "must be false",
    "It is for measuring the overhead of the trainer, and turns off checkpoints and logs, so the "
    "run would leave no results",
    "Leave it out; to save some time, set enable_progress_bar: false and RunSummary.hash_base: "
    "false",
)

RULES = (
    BAREBONES,
    _Rule(
        "precision",
        lambda trainer: trainer.precision,
        "32-true",
        'must be "32-true"',
        "It is the precision of the vectors, and in 16 bits small steps would be rounded away",
        "To set the precision of the base, use model.dtype: bfloat16",
    ),
    _Rule(
        "gradient_clip_val",
        lambda trainer: trainer.gradient_clip_val,
        None,
        "must be null",
        "The module takes the optimizer step itself, and clips the gradient itself",
        "Set model.gradient_clip to NormClip with that max_norm",
    ),
    _Rule(
        "gradient_clip_algorithm",
        lambda trainer: trainer.gradient_clip_algorithm and trainer.gradient_clip_algorithm.value,
        None,
        "must be null",
        "The module takes the optimizer step itself, and clips the gradient itself",
        "Set model.gradient_clip to a module that clips in that way",
    ),
    _Rule(
        "accumulate_grad_batches",
        lambda trainer: trainer.accumulate_grad_batches,
        1,
        "must be 1",
        "A step already accumulates over its micro-batches",
        "Raise data.batch_size; model.tokens_per_micro_batch limits the memory",
    ),
    _Rule(
        "overfit_batches",
        lambda trainer: trainer.overfit_batches,
        0,
        "must be 0",
        "Prompts are drawn by data.order, which does not return to the same prompts",
        "Set data.train to a source that contains only these problems",
    ),
    _Rule(
        "reload_dataloaders_every_n_epochs",
        lambda trainer: trainer.reload_dataloaders_every_n_epochs,
        0,
        "must be 0",
        "A new loader would restart the order of the prompts, and repeat the first epoch",
        "Leave it out: each epoch has another order anyway",
    ),
    _Rule(
        "use_distributed_sampler",
        lambda trainer: (
            trainer._accelerator_connector.use_distributed_sampler
            and trainer._accelerator_connector.is_distributed
        ),
        False,
        "must be false with several processes",
        "Each process already takes its share of every batch, in an order that can be resumed",
        "Set trainer.use_distributed_sampler: false, which is the command line's default",
    ),
    _Rule(
        "sync_batchnorm",
        lambda trainer: trainer._accelerator_connector._layer_sync is not None,
        False,
        "must be false",
        "The base is frozen: its layers keep the statistics with which they were trained",
        "Leave it out",
    ),
    _Rule(
        "limit_predict_batches",
        lambda trainer: str(1.0 if trainer.fast_dev_run else trainer.limit_predict_batches),
        "1.0",
        "must be left out",
        "There is no command `predict`",
        "Use `steer-lightning evaluate`, which saves completions",
    ),
    _Rule(
        "model_registry",
        lambda trainer: getattr(trainer, "_model_registry", None),
        None,
        "must be null",
        "Checkpoints hold the vectors without the base, and a model registry can't load them",
        "Publish the result with steer_lightning.push_to_hub",
    ),
)
"""Options with one allowed value. Those of the strategy and of `deterministic` depend on other
options."""


AVERAGE = "Keep the vectors of several steps with VectorCheckpoint.keep_all, and average them "
AVERAGE += "with `steer-lightning vectors average`"

CALLBACKS = {
    "GradientAccumulationScheduler": (
        "A step already accumulates over its micro-batches",
        "Set data.batch_size to the number of prompts of a step",
    ),
    "BatchSizeFinder": (
        "The batch size affects what is learned, and it does not limit the memory",
        "Set model.tokens_per_micro_batch and model.engine.max_tokens_in_flight",
    ),
    "LearningRateFinder": (
        "It needs a loss that falls, but here the loss says nothing about the reward",
        "Try several learning rates in model.optimizer, and compare their reward curves",
    ),
    "StochasticWeightAveraging": (
        "It would also average the frozen base, in another copy",
        AVERAGE,
    ),
    "WeightAveraging": ("It would also average the frozen base, in another copy", AVERAGE),
}
"""Callbacks of Lightning that are refused, by class, with reason and remedy."""


def check_barebones(value: Any) -> None:
    """Raises a ConfigError for `barebones`, before the trainer refuses it with another message."""
    _check(BAREBONES, value)


def check_trainer(trainer: L.Trainer) -> None:
    """Raises a ConfigError for trainer settings that would falsify the training."""
    for rule in RULES:
        _check(rule, rule.value(trainer))
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, SteeringStrategy)):
        raise ConfigError(
            "trainer.strategy",
            type(strategy).__name__,
            rule=f"must be one of {', '.join(sorted(set(STRATEGIES)))}",
            why="Other strategies would send or shard the vectors together with the base",
            fix="Set trainer.strategy to ddp, fsdp2, or a class of steer_lightning.strategy",
        )
    _check_callbacks(trainer)
    strict = torch.are_deterministic_algorithms_enabled()
    if strict and not torch.is_deterministic_algorithms_warn_only_enabled():
        _check_deterministic(trainer)


def _check(rule: _Rule, value: Any) -> None:
    if value != rule.only:
        key = f"trainer.{rule.option}"
        raise ConfigError(key, value, rule=rule.rule, why=rule.why, fix=rule.fix)


def _check_callbacks(trainer: L.Trainer) -> None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        names = [kind.__name__ for kind in type(callback).__mro__]
        for name in set(names) & set(CALLBACKS):
            why, fix = CALLBACKS[name]
            rule = "can't be used here"
            raise ConfigError("trainer.callbacks", names[0], rule=rule, why=why, fix=fix)


def _check_deterministic(trainer: L.Trainer) -> None:
    if trainer.strategy.root_device.type == "cuda":
        raise ConfigError(
            "trainer.deterministic",
            True,
            rule="must be false or warn on a GPU",
            why="Sampling needs cumulative sums, for which torch has no deterministic GPU kernel",
            fix="Set trainer.deterministic: warn",
        )


def num_steps_of(trainer: L.Trainer) -> int:
    """Returns the number of steps of a run; raises a ConfigError if nothing bounds it."""
    if 0 in (trainer.max_epochs, trainer.limit_train_batches):
        return 0  # Lightning would count the batches of an epoch that does not begin
    found = trainer.estimated_stepping_batches
    if found == float("inf"):
        raise ConfigError(
            "trainer.max_steps",
            trainer.max_steps,
            rule="trainer.max_steps or trainer.max_epochs must limit the length of the run",
            why="The schedule of the learning rate depends on the length",
            fix="Set trainer.max_steps to a number of optimizer steps",
        )
    return int(found)


def check_options(trainer: L.Trainer, data: Any) -> None:
    """Raises a ConfigError for options that do not fit the data or each other.

    Args:
        trainer: Trainer of the run.
        data: Data module of the run, whose prompts are loaded, or None.
    """
    prompts = getattr(data, "prompts", {})
    _check_limits(trainer, data, prompts)
    if trainer.state.fn == TrainerFn.FITTING and prompts:
        check_validations(trainer, data)


def _check_limits(trainer: L.Trainer, data: Any, every: Mapping[str, Sequence[Any]]) -> None:
    """Refuses a share of a split's batches that is less than one batch."""
    for split, prompts in every.items():
        key = f"limit_{split}_batches"
        limit: float = getattr(trainer, key)
        if split == "train":
            batches = len(prompts) // data.batch_size
        else:
            batches = -(-len(prompts) // data.eval_batch_size)
        if limit and batches_of_epoch(batches, limit) == 0:
            raise ConfigError(
                f"trainer.{key}",
                limit,
                rule=f"is a share of {batches} batches, and comes to less than one batch",
                fix="Set a whole number of batches, or a larger share",
            )


def check_accelerator(accelerator: object) -> None:
    """Raises a ConfigError if this machine has no device of the requested kind.

    Args:
        accelerator: Value of `trainer.accelerator`; if it is not a name, Lightning handles it.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there |= {"gpu": any(there.values()), "tpu": find_spec("torch_xla") is not None}
    if not isinstance(accelerator, str) or there.get(accelerator, True):
        return
    raise ConfigError(
        "trainer.accelerator",
        accelerator,
        rule="this machine has no such device that PyTorch can use",
        why="The installed build of torch may not support it"
        if accelerator != "tpu"
        else "The package torch_xla is missing",
        fix="Set trainer.accelerator: cpu, or auto, which uses what is available",
    )
