"""The first half of a step: completions with their rewards, in one round or in several."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.advantages import RLOO, has_signal
from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import MathReward, RewardSum, WeightedReward
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.system.collectives import rank, world_size
from steer_lightning.training.step import Sampled, gather_rows
from steer_lightning.types import Prompt, Rollouts

Round = Callable[[Sequence[Prompt]], Sampled]
More = Callable[[int, Sequence[Prompt]], Sequence[Prompt]]
"""Takes a number of prompts and those of this step so far; returns as many others, or fewer."""


@dataclass(frozen=True, kw_only=True)
class DynamicSampling:
    """Refills groups without signal from further prompts (DAPO, arXiv 2503.14476).

    A group whose rewards are all equal teaches nothing. As many further prompts as there are such
    groups are sampled, and again, until `data.batch_size` groups have signal or the bound is
    reached. The update is of those; at the bound, groups without signal fill up their number. All
    completions are scored, counted and kept in `rollouts.parquet`.

    Attributes:
        max_rounds: Rounds of further prompts in a step at most; 1 or more.
    """

    max_rounds: int | None = None

    def __post_init__(self) -> None:
        """Raises a ConfigError for a missing bound."""
        if self.max_rounds is None or self.max_rounds < 1:
            raise ConfigError(
                "model.dynamic_sampling.max_rounds",
                self.max_rounds,
                rule="must be 1 or more with model.dynamic_sampling",
                why="With a model that solves all prompts, or none, a step without a bound would "
                "never end",
                fix="Set it to 4, say, or model.dynamic_sampling: null",
            )

    def refill(
        self, prompts: list[Prompt], sampled: Sampled, one_round: Round, more: More
    ) -> tuple[list[Prompt], Sampled]:
        """Samples further prompts in the place of those whose group has no signal.

        Args:
            prompts: B, of the first round.
            sampled: What came of them.
            one_round: Samples and scores.
            more: Where further prompts come from.

        Returns:
            All prompts, and what was sampled of them.
        """
        num_groups = len(prompts)
        assert self.max_rounds is not None  # checked
        for _ in range(self.max_rounds):
            missing = num_groups - int(has_signal(sampled.rewards).sum())
            further = more(missing, prompts) if missing else []
            if not further:
                break
            prompts, sampled = [*prompts, *further], sampled.join(one_round(further))
        return prompts, sampled


def default_rewards(loss: Any) -> list[WeightedReward]:
    """Of a run that names none; a loss of the base's own completions needs none."""
    return [] if hasattr(loss, "base_sampling") else [WeightedReward(reward=MathReward())]


def default_advantage(loss: Any) -> Any:
    """Of a run that names none; where nothing is scored, each completion counts 1."""
    return torch.ones_like if hasattr(loss, "base_sampling") else RLOO()


def sample_round(
    prompts: Sequence[Prompt],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: RewardSum,
    sampling: Sampling,
    seed: int,
    step: int,
) -> Sampled:
    """Samples and scores G completions of each prompt, shared among the processes.

    Args:
        prompts: B, the same for all processes.
        policy: That samples.
        engine: Set up with the policy.
        reward: What completions are worth.
        sampling: How completions are sampled.
        seed: Of the run.
        step: Of training.
    """
    start = time.perf_counter()
    own = torch.arange(len(prompts))[rank() :: world_size()]
    scoring = reward.start()  # completions are scored while others are still sampled
    with policy.sharding.for_rollouts(policy.model):
        rollouts = no_rollouts(sampling.group_size)
        if len(own):
            rollouts = engine.generate(
                [prompts[k] for k in own],
                sampling,
                seed=seed,
                step=step,
                on_completion=scoring.add,
            )
    seconds = time.perf_counter() - start
    scores = scoring.result(rollouts.completions())  # None where unscored
    rows = gather_rows(rollouts, scores, seconds)  # of all processes
    return Sampled(**vars(rows), rollouts=rollouts, scores=scores, own=own)


def no_rollouts(group_size: int) -> Rollouts:
    """Of a process that has no prompt in a round."""
    nothing = torch.zeros(0, 1)
    return Rollouts(
        prompts=(),
        group_size=group_size,
        completion_ids=nothing.long(),
        completion_mask=nothing.bool(),
        logprobs=nothing,
        finished=nothing[:, 0].bool(),
        texts=(),
    )


def who_takes_part(sampled: Sampled, num_groups: int, mask_overlong: bool) -> torch.Tensor:
    """Chooses the completions that the update is of.

    Args:
        sampled: Of B prompts, or of more.
        num_groups: B, so many groups; first those with signal, each in their order.
        mask_overlong: Whether completions that were cut off are left out.

    Returns:
        (number of prompts, G) bool.
    """
    signal = has_signal(sampled.rewards)
    order = torch.sort(signal.int(), descending=True, stable=True).indices
    chosen = torch.isin(torch.arange(len(signal)), order[:num_groups])
    takes_part = chosen[:, None].expand_as(sampled.finished)
    return takes_part & sampled.finished if mask_overlong else takes_part
