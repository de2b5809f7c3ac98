"""Settings that contradict each other, refused before a model is loaded."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.rollout import Sampling


def check_trainer(trainer: L.Trainer) -> None:
    """Raises a ConfigError for settings of the trainer that would falsify the training."""
    if trainer.precision != "32-true":
        raise ConfigError(
            "trainer.precision",
            trainer.precision,
            rule='must be "32-true"',
            why="It is the precision of the vectors: small steps are rounded away in 16 bits",
            fix="Set the base's own precision by model.dtype: bfloat16",
        )
    if trainer.world_size > 1:
        raise ConfigError(
            "trainer.devices",
            trainer.world_size,
            rule="must be 1 process in all",
            why="The gradient of the vectors is not summed over processes yet",
            fix="Set trainer.devices: 1",
        )
    if trainer.gradient_clip_val is not None:
        raise ConfigError(
            "trainer.gradient_clip_val",
            trainer.gradient_clip_val,
            rule="must be null",
            why="The optimizer step is the module's own, and so is its clip",
            fix="Set model.gradient_clip to NormClip with that max_norm",
        )
    if trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches",
            trainer.accumulate_grad_batches,
            rule="must be 1",
            why="A step accumulates over its micro-batches by itself",
            fix="Set data.batch_size higher; model.tokens_per_micro_batch bounds the memory",
        )
    strict = torch.are_deterministic_algorithms_enabled()
    if strict and not torch.is_deterministic_algorithms_warn_only_enabled():
        _check_deterministic(trainer)


def _check_deterministic(trainer: L.Trainer) -> None:
    if trainer.strategy.root_device.type == "cuda":
        raise ConfigError(
            "trainer.deterministic",
            True,
            rule="must be false or warn on a GPU",
            why="Sampling sums probabilities up, which torch has no deterministic GPU kernel for",
            fix="Set trainer.deterministic: warn",
        )


def check_training_sampling(sampling: Sampling, advantage: Any) -> None:
    """Raises a ConfigError for sampling under which nothing, or something else, would be learned.

    Args:
        sampling: Of the training completions.
        advantage: The estimator, which may need groups of some size.
    """
    needed = getattr(advantage, "min_group_size", 1)
    if sampling.group_size < needed:
        name = type(advantage).__name__
        raise ConfigError(
            "model.sampling.group_size",
            sampling.group_size,
            rule=f"must be at least {needed} with model.advantage = {name}",
            why="Its baseline is the mean reward of the group's other completions: of one there "
            "are none",
            fix="Set model.sampling.group_size: 8 or more",
        )
    if sampling.temperature == 0:
        raise ConfigError(
            "model.sampling.temperature",
            0,
            rule="must be above 0 in training",
            why="Greedy completions of a group are all the same, and their advantages 0",
            fix="Set model.sampling.temperature: 1.0",
        )
    for key, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
        value = getattr(sampling, key)
        if value != off:
            raise ConfigError(
                f"model.sampling.{key}",
                value,
                rule=f"must be {off} in training",
                why="The loss is of the whole distribution; truncated sampling would be off its "
                "policy",
                fix=f"Set model.sampling.{key}: {off}; model.eval_sampling may truncate",
            )
