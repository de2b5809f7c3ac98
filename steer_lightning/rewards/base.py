"""What a reward is, and the weighted sum of several.

No tensors here: a reward sees text and facts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from steer_lightning.errors import ConfigError
from steer_lightning.types import Completion


@runtime_checkable
class Reward(Protocol):
    """Scores completions. A plain function of the same form is one, too.

    Returns one number a completion, or None where it can't be scored: such a completion is left out
    of its group's baseline and counted. An exception stops the run: a crash is never a reward of 0.
    """

    def __call__(self, completions: Any, /) -> Any:
        """Takes a list of `Completion`, of one or several prompts.

        Returns a list of as many numbers or None.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward and its weight in the sum; weight 0 logs it without training on it."""

    reward: Reward
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises a ConfigError for a weight that is not finite."""
        if not math.isfinite(self.weight):
            raise ConfigError("model.rewards.weight", self.weight, rule="must be a finite number")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Rewards of N completions."""

    total: list[float | None]
    """N weighted sums; None where a part with a weight could not be scored."""
    parts: dict[str, list[float | None]]
    """Each reward's own N numbers, unweighted, by name."""


def reward_name(reward: Reward) -> str:
    """The function's name, or the class's."""
    return getattr(reward, "__name__", type(reward).__name__)


def check_scores(name: str, scores: Any, num_completions: int) -> list[float | None]:
    """Turns what a reward returned into floats.

    Raises:
        ConfigError: If it returned the wrong count, NaN, infinity, or something that is no number;
            it names the reward.
    """
    if isinstance(scores, (str, bytes)) or not hasattr(scores, "__len__"):
        raise _wrong(name, type(scores).__name__, "must return a list of numbers")
    if len(scores) != num_completions:
        raise _wrong(
            name,
            f"{len(scores)} scores",
            f"must return one score for each of {num_completions} completions",
        )
    checked: list[float | None] = []
    for score in scores:
        if score is not None and not (isinstance(score, Real) and math.isfinite(score)):
            raise _wrong(
                name, score, "must return finite numbers, or None for what can't be scored"
            )
        checked.append(None if score is None else float(score))
    return checked


def _wrong(name: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"reward {name}", value, rule=rule, fix=f"Mend what {name} returns")


class RewardSum:
    """The weighted sum of several rewards.

    Args:
        rewards: At least one. Two of the same name are numbered.

    Raises:
        ConfigError: If there is none, or no weight differs from 0.
    """

    def __init__(self, rewards: Sequence[WeightedReward]) -> None:
        if not any(part.weight for part in rewards):
            raise ConfigError(
                "model.rewards",
                [reward_name(part.reward) for part in rewards],
                rule="needs at least one reward with a weight other than 0",
                why="With no reward there is nothing to learn",
            )
        self.parts: dict[str, WeightedReward] = {}
        for part in rewards:
            name = base = reward_name(part.reward)
            number = 2
            while name in self.parts:
                name, number = f"{base}_{number}", number + 1
            self.parts[name] = part

    def __call__(self, completions: Sequence[Completion]) -> Scores:
        """Scores N completions with every part, and adds them up."""
        parts = {
            name: check_scores(name, part.reward(completions), len(completions))
            for name, part in self.parts.items()
        }
        weights = {name: part.weight for name, part in self.parts.items() if part.weight}
        total: list[float | None] = []
        for n in range(len(completions)):
            values = [(weight, parts[name][n]) for name, weight in weights.items()]
            scored = [weight * value for weight, value in values if value is not None]
            total.append(sum(scored) if len(scored) == len(values) else None)
        return Scores(total=total, parts=parts)
