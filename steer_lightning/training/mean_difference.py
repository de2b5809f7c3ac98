"""The mean state of better completions minus that of worse ones, of each layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from steer_lightning.advantages import DrGRPO, has_signal
from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.steering import SteeringVectors, find_sites
from steer_lightning.training.batch import MicroBatch
from steer_lightning.training.gradient import micro_batches
from steer_lightning.types import Rollouts


class MeanDifference:
    """v_l = sum_i A_i h_{i,l} / (sum_i |A_i| / 2), A_i = r_i - mean reward of i's group.

    h_{i,l} is the mean over the tokens of completion i of what layer l puts out. With rewards of 0
    and 1 this is a weighted mean over prompts p of

        (mean h of the right completions of p) - (mean h of its wrong ones),

    the difference of means of contrastive activation addition (arXiv 2312.06681) and SEAL
    (arXiv 2504.07986, there of kinds of thoughts), within a prompt: pooled over prompts it would
    also tell easy problems from hard ones. The weight of p is n_right n_wrong / (n_right +
    n_wrong), which has the least variance where completions scatter alike. Other rewards need no
    threshold. Prompts whose rewards are all equal, and completions without a score, count for
    nothing. Batches add up.

    Args:
        num_tokens: First tokens of each completion that are read; null reads all.

    Attributes:
        num_prompts: Added so far.
        num_completions: Of them.
        num_unscored: Completions without a score.
        num_contrasts: Prompts that have better completions and worse ones.
    """

    def __init__(self, num_tokens: int | None = None) -> None:
        self.num_tokens = num_tokens
        self.num_prompts = self.num_completions = self.num_unscored = self.num_contrasts = 0
        self._reward_sum = self._weight = 0.0
        self._sum: torch.Tensor | float = 0.0

    def count(self, rewards: torch.Tensor) -> torch.Tensor:
        """Takes in the rewards of a batch, whose states are still to be added.

        Args:
            rewards: (B, G), NaN where unscored.

        Returns:
            (B * G,) A_i; rows of 0 need no state.
        """
        scored = ~rewards.isnan()
        self.num_prompts += len(rewards)
        self.num_completions += rewards.numel()
        self.num_unscored += int((~scored).sum())
        self.num_contrasts += int(has_signal(rewards).sum())
        self._reward_sum += float(rewards[scored].double().sum())
        return DrGRPO()(rewards.double()).flatten()

    def add(self, states: torch.Tensor, advantages: torch.Tensor) -> None:
        """Adds completions.

        Args:
            states: (L, n, D), the mean over each completion's tokens.
            advantages: (n,) of them.
        """
        weights = advantages.double().cpu()
        self._sum = self._sum + torch.einsum("n,lnd->ld", weights, states.double().cpu())
        self._weight += float(weights.abs().sum()) / 2

    @property
    def mean_reward(self) -> float:
        """Of what has a score; NaN if nothing has."""
        scored = self.num_completions - self.num_unscored
        return self._reward_sum / scored if scored else float("nan")

    @property
    def vectors(self) -> torch.Tensor:
        """(L, D) float32, in the scale of the stream.

        Raises:
            ConfigError: If no prompt has both better and worse completions.
        """
        if not isinstance(self._sum, torch.Tensor):
            raise ConfigError(
                "rewards",
                f"mean {self.mean_reward:.3g}",
                rule=f"none of {self.num_prompts} prompts has better and worse ones among its "
                "completions",
                why=f"Of {self.num_completions} completions {self.num_unscored} have no score, and "
                "those of a prompt are all worth the same: there is no difference",
                fix="Take more prompts (num_prompts), more completions of each "
                "(model.sampling.group_size), or problems that the model solves now and then",
            )
        return (self._sum / self._weight).float()

    @torch.no_grad()
    def read(
        self, policy: Policy, rollouts: Rollouts, rewards: torch.Tensor, max_tokens: int = 16384
    ) -> None:
        """Reads a batch of completions and adds them.

        Args:
            policy: Loaded, with `SteeringVectors`, whose layers and place are read; the states are
                those of the base, whatever the vectors are.
            rollouts: B prompts x G completions.
            rewards: (B, G), NaN where unscored.
            max_tokens: Most tokens of a forward pass, padding included.
        """
        advantages = self.count(rewards)
        rows = advantages.nonzero().squeeze(1)
        with policy.at_scale(0.0):
            for part in micro_batches(rollouts, rows, max_tokens, policy.pad_token_id):
                states = mean_states(policy, part, self.num_tokens)
                self.add(states, advantages[part.rows])


def difference_of_means(
    policy: Policy,
    rollouts: Rollouts,
    rewards: torch.Tensor,
    *,
    num_tokens: int | None = None,
    max_tokens: int = 16384,
) -> torch.Tensor:
    """The vectors (L, D) of a single batch; see `MeanDifference` and its `read`.

    Raises:
        ConfigError: If no prompt has both better and worse completions.
    """
    found = MeanDifference(num_tokens)
    found.read(policy, rollouts, rewards, max_tokens)
    return found.vectors


def mean_states(policy: Policy, part: MicroBatch, num_tokens: int | None = None) -> torch.Tensor:
    """What each steered place puts out, the mean over the first tokens of each completion.

    Its very last token is left out: nothing is sampled behind it, and an EOS token would tell long
    completions from short ones. A completion of one token has nothing else, and keeps it.

    Args:
        policy: Loaded, with `SteeringVectors`.
        part: n completions.
        num_tokens: So many of the first; null for all.

    Returns:
        (L, n, D) float32.
    """
    steering = policy.steering
    assert isinstance(steering, SteeringVectors)
    places = find_sites(policy.layers, steering.layers, steering.site)
    width = part.completion_ids.shape[1]
    counts = (part.completion_mask.sum(1, keepdim=True) - 1).clamp(1, num_tokens)  # (n, 1)
    weights = ((torch.arange(width) < counts) / counts).to(policy.device)  # (n, T)
    found: dict[int, torch.Tensor] = {}

    def keep(row: int, module: nn.Module, args: object, output: Any) -> None:
        stream = output if isinstance(output, torch.Tensor) else output[0]
        found[row] = torch.einsum("nt,ntd->nd", weights, stream[:, -width:].float())

    handles = [place.register_forward_hook(partial(keep, row)) for row, place in enumerate(places)]
    try:
        policy.logits(part.ids.to(policy.device), part.mask.to(policy.device), num_last=1)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([found[row] for row in range(len(places))])


def in_units(vectors: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Vectors in the proportions that they have, and of size 1 in the mean over layers.

    size = mean_l |v_l| / (unit_l sqrt(D)): of size 1 they are as long as a typical state, whatever
    the model. A trained vector's size is logged as `vectors/size_in_units`.

    Args:
        vectors: (L, D).
        units: (L,) typical size of the states of each layer, see `measure_rms`.

    Returns:
        (L, D).

    Raises:
        ConfigError: If they are all 0.
    """
    size = (vectors.norm(dim=1) / (units * vectors.shape[1] ** 0.5)).mean()
    if not size > 0:
        raise ConfigError(
            "rewards",
            "a difference of 0",
            rule="better and worse completions have the same states",
            why="They are the same texts: what they are worth does not depend on them",
            fix="Check model.rewards, and model.sampling.temperature",
        )
    scaled: torch.Tensor = vectors / size
    return scaled
