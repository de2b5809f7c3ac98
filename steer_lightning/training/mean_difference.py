"""The difference of means: the mean state of better completions minus that of worse ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from steer_lightning.advantages import DrGRPO, has_signal
from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.system.figures import rounded
from steer_lightning.training.contrast import Reading
from steer_lightning.training.mean_states import StateReader
from steer_lightning.types import Prompt, Rollouts


class MeanDifference:
    """Adds up the difference of means over batches of completions.

    `v_l = sum_i A_i h_{i,l} / (sum_i |A_i| / 2)`, where `A_i = r_i - mean reward of i's group`, and
    `h_{i,l}` is the output of layer l, averaged over the tokens of completion i. With rewards of 0
    and 1 this is a weighted mean over prompts p of

        (mean h of the right completions of p) - (mean h of its wrong ones),

    the difference of means of contrastive activation addition (arXiv 2312.06681) and of SEAL (arXiv
    2504.07986, there between kinds of thoughts), taken within each prompt. Pooled over prompts, the
    difference would also separate easy problems from hard ones. The weight of p is `n_right n_wrong
    / (n_right + n_wrong)`, which has the least variance if all completions have the same variance.
    Other rewards need no threshold. Prompts whose rewards are all equal, and completions without a
    score, do not count.

    Attributes:
        num_prompts: Number of prompts added so far.
        num_completions: Number of their completions.
        num_unscored: Number of completions without a score.
        num_contrasts: Number of prompts with both better and worse completions.
    """

    def __init__(self) -> None:
        self.num_prompts = self.num_completions = self.num_unscored = self.num_contrasts = 0
        self._reward_sum = self._weight = 0.0
        self._sum: torch.Tensor | float = 0.0

    def count(self, rewards: torch.Tensor) -> torch.Tensor:
        """Counts the rewards of a batch, whose states are still to be added.

        Args:
            rewards: Rewards (B, G), NaN where unscored.

        Returns:
            `A_i` of each completion, (B * G,) float64; completions with 0 need no state.
        """
        scored = ~rewards.isnan()
        self.num_prompts += len(rewards)
        self.num_completions += rewards.numel()
        self.num_unscored += int((~scored).sum())
        self.num_contrasts += int(has_signal(rewards).sum())
        self._reward_sum += float(rewards[scored].double().sum())
        return DrGRPO()(rewards.double()).flatten()

    def add(self, states: torch.Tensor, advantages: torch.Tensor) -> None:
        """Adds the states of n completions.

        Args:
            states: States (L, n, D), averaged over the tokens of each completion.
            advantages: `A_i` of these completions, (n,).
        """
        weights = advantages.cpu().double()
        self._sum = self._sum + torch.einsum("n,lnd->ld", weights, states.cpu().double())
        self._weight += float(weights.abs().sum()) / 2

    @property
    def mean_reward(self) -> float:
        """Mean reward of the scored completions; NaN if there are none."""
        scored = self.num_completions - self.num_unscored
        return self._reward_sum / scored if scored else float("nan")

    @property
    def vectors(self) -> torch.Tensor:
        """Vectors at the scale of the stream, (L, D) float32.

        Raises:
            ConfigError: If no prompt has both better and worse completions.
        """
        if not isinstance(self._sum, torch.Tensor):
            raise ConfigError(
                "rewards",
                f"mean {self.mean_reward:.3g}",
                rule=f"none of {self.num_prompts} prompts has both better and worse completions",
                why=f"Of {self.num_completions} completions {self.num_unscored} have no score, "
                "and the others have the same reward within each prompt, so there is no "
                "difference",
                fix="Use more prompts (num_prompts), more completions of each prompt "
                "(model.sampling.group_size), or problems that the model solves sometimes",
            )
        return (self._sum / self._weight).float()

    @torch.no_grad()
    def read(
        self,
        reader: StateReader,
        rollouts: Rollouts,
        rewards: torch.Tensor,
        max_tokens: int = 16384,
    ) -> None:
        """Reads a batch of completions and adds them.

        Args:
            reader: Reader of the states. They are those of the base, whatever its policy's vectors
                are.
            rollouts: G completions of each of B prompts.
            rewards: Rewards (B, G), NaN where unscored.
            max_tokens: Maximum number of tokens of all texts in a forward pass, padding included.
        """
        advantages = self.count(rewards)
        rows = advantages.nonzero().squeeze(1)
        if len(rows):
            with reader.policy.at_scale(0.0):
                order, states = reader.read(rollouts, rows, max_tokens)
            self.add(states, advantages[order])


class RewardContrast:
    """Contrasts better and worse completions, by a `MeanDifference`; see `Contrast`.

    Args:
        num_tokens: Number of tokens to read from the start of each completion; None reads all.
    """

    def __init__(self, num_tokens: int | None = None) -> None:
        self._found, self._num_tokens = MeanDifference(), num_tokens
        self._reader: StateReader | None = None

    def check(self, policy: Policy, prompts: Sequence[Prompt], /) -> None:
        """Accepts all prompts that can be answered."""

    def read(self, prompts: Sequence[Prompt], reading: Reading, /) -> None:
        """Samples, scores and reads completions of the prompts."""
        sampled = reading.sampler.sample(prompts, step=0)
        if self._reader is None:
            self._reader = StateReader(reading.policy, self._num_tokens)
        self._found.read(self._reader, sampled.rollouts, sampled.rewards, reading.max_tokens)

    def direction(self) -> torch.Tensor:
        """Returns the vectors (L, D)."""
        return self._found.vectors

    def facts(self) -> dict[str, Any]:
        """Returns the counts, and the mean reward."""
        found = {key: value for key, value in vars(self._found).items() if key[0] != "_"}
        more = {"num_tokens": self._num_tokens, "mean_reward": self._found.mean_reward}
        return {**found, **more}

    def summary(self) -> str:
        """Returns how many prompts have a contrast, and how well they are answered."""
        found = self._found
        return (
            f"{found.num_contrasts:d} of {found.num_prompts:d} prompts have better and worse "
            f"completions; mean reward {rounded(found.mean_reward)}, {found.num_unscored:d} of "
            f"{found.num_completions:d} completions unscored"
        )


def difference_of_means(
    policy: Policy,
    rollouts: Rollouts,
    rewards: torch.Tensor,
    *,
    num_tokens: int | None = None,
    max_tokens: int = 16384,
) -> torch.Tensor:
    """Returns the vectors (L, D) of a single batch; see `MeanDifference` and its `read`.

    Raises:
        ConfigError: If no prompt has both better and worse completions.
    """
    found = MeanDifference()
    found.read(StateReader(policy, num_tokens), rollouts, rewards, max_tokens)
    return found.vectors


def in_units(vectors: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Returns the vectors, scaled by one factor to a size of 1 in the mean over layers.

    `size = mean_l |v_l| / (unit_l sqrt(D))`: at size 1 vectors are as long as a typical state, in
    any model. The size of trained vectors is logged as `vectors/size_in_stream`.

    Args:
        vectors: Vectors (L, D).
        units: Typical size of the states of each layer, (L,); see `measure_rms`.

    Returns:
        Scaled vectors (L, D).

    Raises:
        ConfigError: If the vectors are all 0.
    """
    size = (vectors.norm(dim=1) / (units * vectors.shape[1] ** 0.5)).mean()
    if not size > 0:
        raise ConfigError(
            "vectors",
            "a difference of 0",
            rule="both sides of the contrast have the same states",
            why="They are the same texts. By default, the reward does not depend on the text",
            fix="Check contrast, or model.rewards and model.sampling.temperature",
        )
    scaled: torch.Tensor = vectors / size
    return scaled
