"""Settings that contradict each other, refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from steer_lightning.errors import ConfigError
from steer_lightning.processes import gather_objects
from steer_lightning.rollout import Sampling
from steer_lightning.strategy import STRATEGIES, SteeringStrategy


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
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, SteeringStrategy)):
        raise ConfigError(
            "trainer.strategy",
            type(strategy).__name__,
            rule=f"must be one of {', '.join(sorted(set(STRATEGIES)))}",
            why="Others would send or shard the vectors with the base",
            fix="Set trainer.strategy: ddp, fsdp2, or a class of steer_lightning.strategy",
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


def check_batch_size(batch_size: int, num_processes: int) -> None:
    """Raises a ConfigError if some process would have no prompt of a batch."""
    if batch_size < num_processes:
        raise ConfigError(
            "data.batch_size",
            batch_size,
            rule=f"must be at least the number of processes, {num_processes}",
            why="It counts the prompts of all processes, and each takes its share",
            fix=f"Set data.batch_size: {num_processes} or more",
        )


def check_same_everywhere(facts: Mapping[str, Any]) -> None:
    """Raises a ConfigError if processes train different things.

    Args:
        facts: Of this process, by configuration key.
    """
    every = gather_objects(dict(facts))
    for number, others in enumerate(every):
        for key, value in every[0].items():
            if others.get(key) != value:
                raise ConfigError(
                    key,
                    value,
                    rule=f"process {number} has {others.get(key)!r}",
                    why="All processes must train the same vectors on the same data",
                    fix="Bring the same files to every node",
                )
