"""The content of a checkpoint besides the vectors: facts about its run, and the random states.

A run that resumes from a checkpoint must have the same facts. Rollouts and the order of the data
are seeded from (seed, step) and (seed, epoch), and do not need the random states. But a user's
reward or data source may draw from the global generators.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.system.collectives import gather_objects, rank, world_size
from steer_lightning.system.plain_settings import check_same, describe, init_args
from steer_lightning.system.run_files import SUMMARY, run_of_checkpoint
from steer_lightning.types import Prompt

log = logging.getLogger(__name__)

KEY = "steering_run"
"""Key of the facts about the run in a checkpoint."""

DESCRIBED = (
    *("advantage", "loss", "updates", "dynamic_sampling", "guidance"),
    *("mask_overlong", "kl_in_reward", "length_in_reward", "schedule", "max_staleness"),
)
"""Parts of `model` that a checkpoint describes by class and settings."""

SETTINGS = (
    *DESCRIBED,
    *("optimizer", "gradient_clip", "rewards", "sampling", "dtype", "steering", "quantization"),
)
"""Parts of `model` that must not change; base and data have their own facts."""

LATER = (
    *("model.schedule", "model.max_staleness"),
    *("model.gradient_clip.init_args", "model.rewards.init_args"),
)
"""Facts that checkpoints of earlier versions lack, which are then not compared."""


def policy_facts(policy: Policy) -> dict[str, Any]:
    """Returns facts about the policy to which the numbers of a checkpoint belong, by key."""
    return {
        "model.quantization": describe(policy.quantization),
        "model.base (checksum of its weights)": policy.checksum,
        "model.steering": type(policy.steering).__name__,
        **policy.steering.facts(),
    }


def training_facts(module: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns facts about what a run optimises and how, by configuration key.

    They include the settings of the optimizer, which are part of its state: a checkpoint would
    silently restore its own settings.

    Args:
        module: `SteeringModule` of the run.
        optimizer: Optimizer of the trained parameters.
    """
    plain = (int, float, bool, str, tuple)
    settings = {k: v for k, v in optimizer.defaults.items() if isinstance(v, plain)}
    return {
        "model.optimizer": type(optimizer).__name__,
        "model.optimizer.init_args": settings,
        "model.gradient_clip": type(module.gradient_clip).__name__,
        "model.gradient_clip.init_args": init_args(module.gradient_clip),
        "model.rewards": {name: part.weight for name, part in module.reward.parts.items()},
        "model.rewards.init_args": {
            name: init_args(part.reward) for name, part in module.reward.parts.items()
        },
        "model.sampling": {
            **asdict(module.sampling),
            "eos_token_ids": list(module.sampling.eos_token_ids),
        },
        **{f"model.{name}": describe(getattr(module, name)) for name in DESCRIBED},
        "model.guidance.text (checksum of the prompts with hints)": checksum_of(module.hints),
    }


def checksum_of(hints: Mapping[int, Prompt]) -> int | None:
    """Returns a checksum of the prompts with hints; None if there are none."""
    crc = 0
    for hint in hints.values():
        crc = zlib.crc32(repr((hint.id, hint.token_ids)).encode(), crc)
    return crc if hints else None


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises a ConfigError that shows both sides if a checkpoint belongs to another run.

    Args:
        saved: Facts in the checkpoint.
        now: Facts of this run.
    """
    check_same(
        saved,
        {key: value for key, value in now.items() if key in saved or key not in LATER},
        told="the checkpoint was made with",
        why="The vectors and the optimizer state of the checkpoint mean something else with "
        "these settings",
        fix="Restore the old setting, or start a new run from the vectors with "
        "model.steering.init_from",
    )


def check_not_finished(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Raises a ConfigError if a checkpoint belongs to a run that has already ended.

    A run that was interrupted after its last step, such as in the last evaluation, may resume.
    """
    done = checkpoint["global_step"]
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    cursor = checkpoint.get(type(data).__qualname__, {}).get("cursor")
    epochs = cursor["epoch"] if cursor else 0
    ended = (run_of_checkpoint(Path(str(trainer.ckpt_path))) / SUMMARY).exists()
    least = 0 if ended else 1  # smallest number of steps or epochs beyond the limit that is refused
    if trainer.max_steps != -1 and done >= trainer.max_steps + least:
        raise ConfigError(
            "trainer.max_steps",
            trainer.max_steps,
            rule=f"the checkpoint has already taken {done} steps",
            fix=f"Set trainer.max_steps above {done} to continue, or evaluate the checkpoint "
            "with `steer-lightning test` and this ckpt_path",
        )
    most = trainer.max_epochs
    if most not in (None, -1) and epochs >= most + least:
        raise ConfigError(
            "trainer.max_epochs",
            most,
            rule=f"the checkpoint has already gone through the data {epochs} times",
            fix=f"Set trainer.max_epochs above {epochs} to continue",
        )


def gather_random_states() -> list[dict[str, Any]]:
    """Returns the random states of all processes, in the order of their numbers."""
    return gather_objects(get_random_states())


def restore_random_states(saved: list[dict[str, Any]] | dict[str, Any]) -> None:
    """Restores the random states that this process had when a checkpoint was written.

    If the number of processes has changed, all of them take those of the first one.

    Args:
        saved: States of all processes; of the first alone in checkpoints of earlier versions.
    """
    every = saved if isinstance(saved, list) else [saved]
    is_own = len(every) == world_size()
    if not is_own:
        log.warning(
            "the checkpoint has the random states of %d processes, and this run has %d: all of "
            "them continue with those of the first one. Rewards that draw random numbers in the "
            "training process may draw others than in an uninterrupted run; completions are the "
            "same",
            len(every),
            world_size(),
        )
    set_random_states(every[rank() if is_own else 0])


def get_random_states() -> dict[str, Any]:
    """Returns the states of the random generators of Python, NumPy and torch, GPUs included.

    Their types can be loaded from a checkpoint with `weights_only=True`.
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            [int(key) for key in keys],
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restores the states of `get_random_states`; those of GPUs if their number is the same."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
