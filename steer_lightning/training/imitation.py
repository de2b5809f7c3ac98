"""Checks of runs that imitate chosen completions, before a model is loaded.

Imitated completions are targets, whoever has sampled them. So they need no importance weights, with
which other losses correct for a sampler that differs from the policy.
"""

from __future__ import annotations

import math
from typing import Any

from steer_lightning.advantages import BestOf
from steer_lightning.advantages.base import non_negative_from_of
from steer_lightning.errors import ConfigError
from steer_lightning.losses import Likelihood
from steer_lightning.rewards import reward_name


def imitates(loss: Any) -> bool:
    """Whether the completions of a batch are targets of a loss, not samples of the policy."""
    return isinstance(getattr(loss, "objective", None), Likelihood)


def check_correction(loss: Any, setting: tuple[str, Any], *, why: str, otherwise: str) -> None:
    """Raises a ConfigError for a loss that takes the samples of another policy for its own.

    Args:
        loss: Loss of the run.
        setting: Key and value of the setting by which another policy samples.
        why: Sentence that says which policy that is.
        otherwise: Key and value with which the policy itself samples.
    """
    if imitates(loss) or getattr(loss, "correction", None) is not None:
        return
    key, value = setting
    has_setting = hasattr(loss, "correction")
    corrected = "model.loss.init_args.correction: steer_lightning.losses.TruncatedImportance, or "
    raise ConfigError(
        key,
        value,
        rule=f"needs a loss with a correction, which {reward_name(loss)} has not",
        why=why,
        fix=f"Set {corrected if has_setting else ''}{otherwise}",
    )


def check_imitation(module: Any, loss: Any) -> None:
    """Raises a ConfigError if completions are imitated that are not chosen, or can't be.

    Args:
        module: Module of the run, whose rewards, sampling and advantage are read.
        loss: Loss of the run.
    """
    if imitates(loss):
        _check_weights(module)
    if isinstance(module.advantage, BestOf):
        _check_choice(module, module.advantage)


def _check_weights(module: Any) -> None:
    """Raises a ConfigError if completions may get negative weights.

    Rewards that do not tell their bounds are left to the loss.
    """
    advantage, bounds = reward_name(module.advantage), module.reward.bounds
    least = non_negative_from_of(module.advantage)
    if least == math.inf:
        raise ConfigError(
            "model.loss.objective",
            "Likelihood",
            rule=f"needs advantages of at least 0, which model.advantage = {advantage} does not "
            "promise",
            why="It imitates completions, and can't avoid any",
            fix="Set model.advantage: steer_lightning.advantages.BestOf, or use the objective "
            "ScoreFunction. If an estimator of your own never gives less than 0, give it "
            "non_negative_from = 0",
        )
    if bounds is not None and bounds[0] < least:
        raise ConfigError(
            "model.rewards",
            list(module.reward.parts),
            rule=f"must be at least {least:g} in sum with model.loss.objective = Likelihood and "
            f"model.advantage = {advantage}, but may be {bounds[0]:g}",
            why="Likelihood imitates completions, and can't avoid any",
            fix="Leave out the rewards with negative scores or weights, or set model.advantage: "
            "steer_lightning.advantages.BestOf",
        )
    if module.kl_in_reward is not None and least > -math.inf:
        raise ConfigError(
            "model.kl_in_reward",
            "on",
            rule=f"must be null with model.loss.objective = Likelihood and model.advantage = "
            f"{advantage}",
            why="Less the KL, rewards may be negative, and Likelihood can't avoid completions",
            fix="Set model.kl_in_reward: null, and add steer_lightning.losses.KLToBase to the "
            "terms of model.loss",
        )


def _check_choice(module: Any, choice: BestOf) -> None:
    """Raises a ConfigError for a choice that chooses nothing, or leaves nothing out."""
    most, length = module.sampling.group_size, module.sampling.max_new_tokens
    if choice.num_best > most:
        rule = f"must be at most model.sampling.group_size = {most}"
        raise ConfigError("BestOf.num_best", choice.num_best, rule=rule)
    if choice.max_tokens is not None and choice.max_tokens >= length:
        rule = f"must be below model.sampling.max_new_tokens = {length}"
        why = "No completion is longer than that, so none would be left out"
        raise ConfigError("BestOf.max_tokens", choice.max_tokens, rule=rule, why=why)
    bounds = module.reward.bounds
    if bounds is not None and bounds[1] < choice.least:
        rule = f"must be at most {bounds[1]:g}, the largest possible sum of model.rewards"
        why = "No completion would ever be chosen"
        raise ConfigError("BestOf.least", choice.least, rule=rule, why=why)
    for key in ("kl_in_reward", "length_in_reward"):
        if getattr(module, key) is not None:
            raise ConfigError(
                f"model.{key}",
                "on",
                rule="must be null with model.advantage = BestOf",
                why="It would move the rewards of right completions below BestOf.least",
                fix=f"Set model.{key}: null; BestOf prefers short completions by itself, and "
                "steer_lightning.losses.KLToBase keeps the policy near the base",
            )
    if module.mask_overlong:
        raise ConfigError(
            "model.mask_overlong",
            True,
            rule="must be false with model.advantage = BestOf",
            why="BestOf might choose a right completion that was cut off, which would then be left "
            "out, although the group has others",
            fix=f"Set model.mask_overlong: false and BestOf.max_tokens: {length - 1}, with which "
            "completions that were cut off are never chosen",
        )
