"""Checks that refuse contradictory settings, before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from steer_lightning.advantages.base import min_group_size_of, min_reward_of
from steer_lightning.errors import ConfigError
from steer_lightning.losses import needs_of
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import LengthReward, reward_name
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.exact_engine import ExactEngine
from steer_lightning.rollout.sampling import GREEDY_BELOW
from steer_lightning.system.collectives import gather_objects
from steer_lightning.system.plain_settings import check_same
from steer_lightning.system.seeds import check_seed
from steer_lightning.training.guidance import check_guidance
from steer_lightning.training.imitation import check_correction, check_imitation
from steer_lightning.training.length_in_reward import check_length_in_reward
from steer_lightning.training.sample import DynamicSampling
from steer_lightning.training.update import OptimizerSteps


def check_training(module: Any, loss: Any) -> None:
    """Raises a ConfigError if settings of the module contradict each other.

    Args:
        module: Module of the run, whose `sampling`, `advantage` and other settings are read.
        loss: Loss of the run.
    """
    check_seed("model.seed", module.seed, 32)
    check_group_size(module.sampling, module.advantage)
    check_training_sampling(module.sampling)
    check_updates(module.updates, loss, has_guidance=module.guidance is not None)
    if module.dynamic_sampling is not None:
        check_signal(module.advantage)
    for part in module.reward.parts.values():
        if isinstance(part.reward, LengthReward):
            check_length_reward(part.reward, module.sampling)
    check_scoring(module, loss)
    check_imitation(module, loss)
    check_length_in_reward(module)
    check_reward_range(module)
    check_staleness(module.max_staleness, module.engine, loss)
    if module.guidance is not None:
        check_guidance(module, loss)
    if module.policy.quantization is not None:
        check_quantization(module, loss)


def check_quantization(module: Any, loss: Any) -> None:
    """Raises a ConfigError for settings that contradict a quantised base.

    Args:
        module: Module of the run, whose policy has a quantisation.
        loss: Loss of the run.
    """
    chosen: Quantization = module.policy.quantization
    chosen.check_steering(module.policy.steering)
    chosen.check_engine(module.engine)
    if chosen.where == "both":
        return
    key = "model.quantization.where"
    check_correction(
        loss,
        (key, chosen.where),
        why="The completions come from the quantised copy, and the update reads the whole base",
        otherwise=f"{key}: both",
    )
    contradicting = {
        "exact": (isinstance(module.engine, ExactEngine), False),
        "kl_in_reward": (module.kl_in_reward is not None, None),
    }
    for name, (is_set, off) in contradicting.items():
        if is_set:
            raise ConfigError(
                f"model.{name}",
                True if off is False else "on",
                rule=f"can't be combined with {key} = {chosen.where}",
                why="It takes the engine's log-probabilities for those of the update, but the "
                "engine reads a quantised copy",
                fix=f"Set model.{name}: {'false' if off is False else 'null'}, or {key}: both",
            )


def check_staleness(max_staleness: int, engine: Any, loss: Any) -> None:
    """Raises a ConfigError if completions can't be sampled ahead, or the loss does not correct it.

    Args:
        max_staleness: Number of updates that completions may lag behind.
        engine: Engine of the run.
        loss: Loss of the run.
    """
    key = "model.max_staleness"
    if max_staleness not in (0, 1):
        raise ConfigError(
            key,
            max_staleness,
            rule="must be 0 or 1",
            why="At most one batch is sampled while the update runs",
        )
    if not max_staleness:
        return
    if not hasattr(engine, "sample_ahead"):
        raise ConfigError(
            key,
            1,
            rule=f"needs an engine that samples elsewhere, which {type(engine).__name__} does not",
            why="An engine in the training process has nothing to sample with during the update",
            fix="Use steer_lightning.rollout.VLLMEngine, or set model.max_staleness: 0",
        )
    check_correction(
        loss,
        (key, 1),
        why="The completions come from the vectors before the last update",
        otherwise=f"{key}: 0",
    )


def check_scoring(module: Any, loss: Any) -> None:
    """Raises a ConfigError if rewards are missing, or if they are set for a loss that uses none.

    Args:
        module: Module of the run, whose rewards and related settings are read.
        loss: Loss of the run.
    """
    names = list(module.reward.parts)
    base_sampling = needs_of(loss).base_sampling
    if base_sampling is None:
        if not names:
            raise ConfigError(
                "model.rewards",
                [],
                rule="needs at least one reward with a weight other than 0",
                why="Without a reward there is nothing to learn",
            )
        return
    base_sampling(module.sampling)  # checks that loss and sampling fit together
    unused = {
        "rewards": (names, []),
        "advantage": (reward_name(module.advantage), reward_name(torch.ones_like)),
        "dynamic_sampling": (module.dynamic_sampling, None),
        "guidance": (module.guidance, None),
        "kl_in_reward": (module.kl_in_reward, None),
        "length_in_reward": (module.length_in_reward, None),
        "mask_overlong": (module.mask_overlong, False),
    }
    for key, (value, off) in unused.items():
        if value != off:
            raise ConfigError(
                f"model.{key}",
                value,
                rule=f"must be {'false' if off is False else 'null'} with model.loss = "
                f"{reward_name(loss)}",
                why="This loss learns from the beginnings of the base's own completions, which "
                "are not scored and are all cut off",
                fix="Leave it out, or use the loss PolicyGradient, which learns from rewards",
            )


def check_reward_range(module: Any) -> None:
    """Raises a ConfigError if rewards may be below what the estimator is defined for.

    Rewards that do not tell their bounds are left to the estimator.

    Args:
        module: Module of the run, whose rewards, advantage and KL in the reward are read.
    """
    least, name = min_reward_of(module.advantage), reward_name(module.advantage)
    bounds = module.reward.bounds
    if bounds is not None and bounds[0] < least:
        raise ConfigError(
            "model.rewards",
            list(module.reward.parts),
            rule=f"must be at least {least:g} in sum with model.advantage = {name}, but may be "
            f"{bounds[0]:g}",
            why="The estimator is not defined for rewards below that",
            fix="Leave out the rewards with negative scores or weights, or set model.advantage: "
            "steer_lightning.advantages.RLOO",
        )
    if module.kl_in_reward is not None and least > -math.inf:
        raise ConfigError(
            "model.kl_in_reward",
            "on",
            rule=f"must be null with model.advantage = {name}",
            why=f"Less the KL, rewards may be below {least:g}, for which the estimator is not "
            "defined",
            fix="Set model.kl_in_reward: null, and add steer_lightning.losses.KLToBase to the "
            "terms of model.loss",
        )


def check_group_size(sampling: Sampling, advantage: Any) -> None:
    """Raises a ConfigError for groups too small for the estimator."""
    needed = min_group_size_of(advantage)
    if sampling.group_size < needed:
        name = reward_name(advantage)
        raise ConfigError(
            "model.sampling.group_size",
            sampling.group_size,
            rule=f"must be at least {needed} with model.advantage = {name}",
            why="Its baseline is the mean reward of the other completions in the group, and a "
            "group of one has no others",
            fix="Set model.sampling.group_size: 8 or more",
        )


def check_signal(advantage: Any) -> None:
    """Raises a ConfigError if an estimator learns from groups that would be replaced."""
    if min_group_size_of(advantage) < 2:
        raise ConfigError(
            "model.dynamic_sampling",
            "on",
            rule="needs an estimator that compares the completions of a group with each other, "
            f"which model.advantage = {reward_name(advantage)} does not",
            why="It also learns from groups whose rewards are all equal, so they need no "
            "replacement",
            fix="Set model.dynamic_sampling: null, or, with an objective other than Likelihood, "
            "set model.advantage to GRPO, DrGRPO or RLOO. If an estimator of your own compares "
            "completions, give it min_group_size = 2",
        )


def check_further_prompts(data: Any, dynamic_sampling: DynamicSampling | None) -> None:
    """Raises a ConfigError if there are no further prompts with which to refill a batch."""
    if dynamic_sampling is None:
        return
    if not hasattr(data, "further_prompts"):
        raise ConfigError(
            "model.dynamic_sampling",
            "on",
            rule=f"needs a data module with further_prompts, which {type(data).__name__} does "
            "not have",
            fix="Use PromptDataModule, or set model.dynamic_sampling: null",
        )
    if len(data.prompts["train"]) == data.batch_size:
        raise ConfigError(
            "data.batch_size",
            data.batch_size,
            rule="leaves no further prompts for model.dynamic_sampling: it is the number of all "
            "prompts",
            fix="Lower data.batch_size, or set model.dynamic_sampling: null",
        )


def check_length_reward(reward: LengthReward, sampling: Sampling) -> None:
    """Raises a ConfigError for a length penalty that no completion can get."""
    if reward.free_tokens >= sampling.max_new_tokens:
        raise ConfigError(
            "LengthReward.free_tokens",
            reward.free_tokens,
            rule=f"must be below model.sampling.max_new_tokens = {sampling.max_new_tokens}",
            why="No completion is longer than that, so none would be penalised",
            fix=f"Set free_tokens below {sampling.max_new_tokens}, and max_tokens to "
            f"{sampling.max_new_tokens}",
        )


def check_training_sampling(sampling: Sampling) -> None:
    """Raises a ConfigError for sampling with which nothing, or the wrong thing, is learned."""
    if sampling.temperature < GREEDY_BELOW:
        raise ConfigError(
            "model.sampling.temperature",
            sampling.temperature,
            rule=f"must be at least {GREEDY_BELOW:g} in training",
            why="Greedy completions of a group are all the same, so their advantages are 0",
            fix="Set model.sampling.temperature: 1.0",
        )
    for key, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
        value = getattr(sampling, key)
        if value != off:
            raise ConfigError(
                f"model.sampling.{key}",
                value,
                rule=f"must be {off} in training",
                why="The loss is that of the whole distribution, so truncated sampling would be "
                "off policy",
                fix=f"Set model.sampling.{key}: {off}; model.eval_sampling may truncate",
            )


def check_updates(updates: OptimizerSteps, loss: Any, has_guidance: bool = False) -> None:
    """Raises a ConfigError for a loss that does not fit the number of optimizer steps.

    Args:
        updates: Number of optimizer steps on each batch of rollouts.
        loss: Loss, whose attribute `uses_ratio` may say whether it allows several steps.
        has_guidance: Whether completions may be guided, so that their ratios are not 1 in the first
            step either.
    """
    uses_ratio = needs_of(loss).uses_ratio
    name = type(getattr(loss, "objective", loss)).__name__
    if uses_ratio and updates.total == 1 and not has_guidance:
        raise ConfigError(
            "model.loss.objective",
            name,
            rule="needs several optimizer steps per batch, but model.updates.num_passes * "
            "num_mini_batches is 1",
            why="In a single step the policy is still the one that sampled, so its ratio is 1 "
            "and nothing is clipped",
            fix="Set model.updates.num_mini_batches: 4, for example, or use the objective "
            "ScoreFunction, which has the same gradient in this case",
        )
    if uses_ratio is False and updates.total > 1:
        key = "num_passes" if updates.num_passes > 1 else "num_mini_batches"
        raise ConfigError(
            f"model.updates.{key}",
            getattr(updates, key),
            rule=f"must be 1 with model.loss.objective = {name}",
            why="From the second optimizer step on, the policy is no longer the one that "
            "sampled, and this gradient would be wrong",
            fix="Set model.loss.objective: steer_lightning.losses.Clip, which corrects for that",
        )


def check_batch_size(batch_size: int, num_processes: int, num_mini_batches: int) -> None:
    """Raises a ConfigError if a process had no prompt, or mini-batches had unequal sizes."""
    if batch_size < num_processes:
        raise ConfigError(
            "data.batch_size",
            batch_size,
            rule=f"must be at least the number of processes, {num_processes}",
            why="It is the number of prompts of all processes together, and each process takes "
            "its share",
            fix=f"Set data.batch_size: {num_processes} or more",
        )
    if batch_size % num_mini_batches:
        raise ConfigError(
            "model.updates.num_mini_batches",
            num_mini_batches,
            rule=f"must divide data.batch_size = {batch_size}",
            why="All optimizer steps must have the same number of prompts",
            fix="Set it to a divisor of data.batch_size, or set data.batch_size to a multiple of "
            "it",
        )


def check_same_everywhere(facts: Mapping[str, Any]) -> None:
    """Raises a ConfigError if processes train different things.

    Args:
        facts: Facts of this process's training, by configuration key.
    """
    first, *others = gather_objects(dict(facts))
    for number, found in enumerate(others, 1):
        check_same(
            found,
            first,
            told=f"process {number} has",
            why="All processes must train the same vectors on the same data",
            fix="Copy the same files to every node",
        )
