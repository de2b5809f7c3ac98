"""The length of right completions, against that of the others in their group, in the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.training.step import CompletionFigures

KEY = "model.length_in_reward"


@dataclass(frozen=True, kw_only=True)
class LengthInReward:
    """Adds to the reward of a right completion what it is shorter than the group's right ones.

    The shaping of a right completion with n_i tokens is

    `s_i = weight * (1/2 - sigmoid((n_i - mean(n)) / std(n)))`,

    with mean and standard deviation over the right completions of its group that the update learns
    from, so without those that `model.mask_overlong` leaves out ("Training Language Models to
    Reason Efficiently", arXiv 2502.04463). Its authors reward a right completion with
    `1 - weight * sigmoid(...)`, which is the same up to a constant, here chosen so that a right
    completion of mean length keeps its reward. All others have `s_i = 0`: a wrong completion never
    gains by being short. As `|s_i| < weight / 2`, and the weight is at most that of the reward
    for right answers, a long right completion is still worth more than a wrong one.

    Lengths are compared within a group, so hard problems may take as many tokens as they need. The
    shaping assumes that the right completions of a prompt differ in length. It is 0 in a group with
    no right completion or a single one, and where all right ones are equally long. `reward/mean`
    and the other metrics of rewards do not include it; `completion/length_mean` shows its effect.

    Attributes:
        weight: Weight of the shaping, above 0 and below 1; the larger, the shorter.
        right: Name of the reward whose score of 1 says that a completion is right.
    """

    weight: float = 0.2
    right: str = "MathReward"

    def __post_init__(self) -> None:
        """Raises a ConfigError for a weight out of range."""
        if not 0 < self.weight < 1:
            raise ConfigError(
                f"{KEY}.weight",
                self.weight,
                rule="must be above 0 and below 1",
                why="With 0 nothing changes; below 0 long completions would gain",
                fix=f"Set it to 0.2, for example, or {KEY}: null to leave lengths alone",
            )

    def shaping(self, figures: CompletionFigures, takes_part: torch.Tensor) -> torch.Tensor:
        """Computes what is added to the rewards.

        Args:
            figures: Completions of all processes, with the scores of the reward `right`.
            takes_part: Whether the update learns from each completion, (B, G) bool.

        Returns:
            The shaping of each completion, (B, G) float32; 0 for completions that are not right, or
            do not take part.
        """
        right = takes_part & (figures.parts[self.right] >= 1)  # an unscored one, NaN, is not right
        counts = right.sum(1, keepdim=True).clamp(min=1)
        lengths = torch.where(right, figures.num_tokens.double(), 0.0)
        gaps = torch.where(right, lengths - lengths.sum(1, keepdim=True) / counts, 0.0)
        deviations = (gaps.square().sum(1, keepdim=True) / counts).sqrt()
        steps = gaps / torch.where(deviations > 0, deviations, 1.0)  # equal lengths have gaps of 0
        return torch.where(right, self.weight * (0.5 - steps.sigmoid()), 0.0).float()


def check_length_in_reward(module: Any) -> None:
    """Raises a ConfigError if the length in the reward contradicts other settings.

    Args:
        module: Module of the run, whose rewards and dynamic sampling are read.
    """
    shaping: LengthInReward | None = module.length_in_reward
    if shaping is None:
        return
    parts = module.reward.parts
    if shaping.right not in parts:
        raise ConfigError(
            f"{KEY}.right",
            shaping.right,
            rule=f"must be the name of a reward in model.rewards, which has {', '.join(parts)}",
            why="Only right completions gain by being short",
            fix=f"Set it to the name of the reward for right answers, or {KEY}: null",
        )
    if parts[shaping.right].weight < shaping.weight:
        raise ConfigError(
            f"{KEY}.weight",
            shaping.weight,
            rule=f"must be at most the weight of {shaping.right} in model.rewards, "
            f"{parts[shaping.right].weight:g}",
            why="Otherwise a long right completion could be worth less than a wrong one",
        )
    if module.dynamic_sampling is not None:
        raise ConfigError(
            "model.dynamic_sampling",
            "on",
            rule=f"must be null with {KEY}",
            why="It replaces the groups whose completions are all right, from which the policy "
            "learns to be short",
            fix=f"Set model.dynamic_sampling: null, or {KEY}: null",
        )
