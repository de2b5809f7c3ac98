"""The protocol of a reward, and the check of its scores.

Rewards see text and facts, never tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from steer_lightning.errors import ConfigError


@runtime_checkable
class Reward(Protocol):
    """Scores completions; a plain function with the same arguments is a reward, too.

    A reward returns one number per completion, or None if it can't score the completion. Such a
    completion is left out of the baseline of its group, and counted. A `Verdict` is a number that
    also gives a reason.

    Each completion is scored separately in a worker process, with a deadline (`RewardPool`). If
    scoring takes too long or raises an exception, the completion has no score, because the fault
    may be in the reward. A reward that can't be pickled, or that has an attribute `in_process =
    True`, runs in the training process on all completions of a step at once, without a deadline,
    and an exception stops the run. A coroutine function (`async def`) is run as an `AsyncReward`.

    A reward may have these attributes:

    - `in_process`: whether it runs in the training process, see above;
    - `bounds`: the smallest and the largest score, the range of the curve in the progress bar;
    - `outcomes`: the names of its verdicts, which are counted and logged;
    - `warm_up()`: called once before the workers start, for slow imports;
    - `quickly(completion)`: scores completions in the training process if that takes only
      microseconds for any text, and returns NotImplemented for all others;
    - `probe(completion)`: makes a harmless completion of the same problem. If the probe can be
      scored, a completion that takes too long or crashes is itself at fault. It then gets the
      score 0 and the outcome `incomparable`, so that a policy can't choose to have no score.
    """

    def __call__(self, completions: Any, /) -> Any:
        """Takes a list of `Completion`, for one or several prompts.

        Returns a list of the same length, with a number or None for each completion.
        """
        ...


INCOMPARABLE = "incomparable"
"""Outcome of a completion that can't be compared through its own fault; its score is 0."""


class Verdict(float):
    """A score with a reason, such as `Verdict(0, "no_answer")`.

    Args:
        score: Value of the reward.
        outcome: One of the reward's `outcomes`.
    """

    outcome: str

    def __new__(cls, score: float, outcome: str) -> Verdict:
        """Creates a float with an attribute."""
        verdict = super().__new__(cls, score)
        verdict.outcome = outcome
        return verdict


def wrong_return(error: ConfigError) -> str:
    """Returns an error of `check_scores` as one sentence, which a worker can send."""
    return f"{error.rule} (it returned {error.value!r:.100})"


def outcome_of(score: float | None) -> str:
    """Returns the outcome of a verdict; `scored` or `unscored` for other scores."""
    if isinstance(score, Verdict):
        return score.outcome
    return "unscored" if score is None else "scored"


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward and its weight in the sum.

    Attributes:
        reward: Function or object that scores completions.
        weight: Factor of its scores; with weight 0 the reward is only logged.
    """

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
    """N weighted sums; None if a reward with a nonzero weight could not score the completion."""
    parts: dict[str, list[float | None]]
    """The N unweighted numbers of each reward, by name."""
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of times of each outcome, by reward: `timed_out`, `crashed`, and the reward's own."""
    each: dict[str, list[str]] = field(default_factory=dict)
    """The outcome of each of the N completions, by reward."""


def reward_name(reward: Reward) -> str:
    """Returns the name of a reward's function or class."""
    return getattr(reward, "__name__", type(reward).__name__)


def check_scores(name: str, scores: Any, num_completions: int) -> list[float | None]:
    """Turns the return value of a reward into floats.

    Args:
        name: Name of the reward.
        scores: List, or another ordered collection: a tuple, a one-dimensional array or tensor, a
            column of a table. The numbers may be of any kind.
        num_completions: Required number of scores.

    Raises:
        ConfigError: If the reward returned the wrong number of scores, NaN, infinity, or something
            that is not a number, such as a mapping, a set, a table, text, or a masked or dated
            element. The error names the reward.
    """
    if isinstance(scores, (Mapping, Set)):  # not in the order of the completions
        kind = "dict" if isinstance(scores, Mapping) else "set"
        raise _wrong(name, type(scores).__name__, f"must return a list of numbers, not a {kind}")
    if isinstance(scores, (str, bytes, bytearray, memoryview)) or not hasattr(scores, "__len__"):
        raise _wrong(name, type(scores).__name__, "must return a list of numbers")
    shape = getattr(scores, "shape", None)
    axes = 1 if shape is None else len(shape)
    if axes != 1:  # the elements of a table are the names of its columns
        rule = f"must return a list of numbers, not a table or an array of {axes} dimensions"
        raise _wrong(name, type(scores).__name__, rule)
    if len(scores) != num_completions:
        raise _wrong(
            name,
            f"{len(scores)} scores",
            f"must return one score for each of {num_completions} completions",
        )
    checked: list[float | None] = []
    for score in scores:
        value = None if score is None else _finite(score)
        if score is not None and value is None:
            raise _wrong(
                name,
                score,
                "must return finite numbers, or None for completions that can't be scored",
            )
        checked.append(value)
    return checked


def _finite(score: Any) -> float | None:
    """Returns a number of any kind as a float, a verdict as it is, and None for anything else."""
    if isinstance(score, Verdict):
        return score if math.isfinite(score) else None
    if getattr(score, "shape", None) == () and hasattr(score, "item"):  # of an array or a tensor
        is_time = getattr(getattr(score, "dtype", None), "kind", "") in ("M", "m")
        # a time would become nanoseconds, and a masked element 0
        if is_time or getattr(score, "mask", False):
            return None
        score = score.item()
    if not isinstance(score, (Real, Decimal)):
        return None
    try:
        value = float(score)
    except (OverflowError, ValueError):  # a fraction beyond all floats; a signalling NaN
        return None
    return value if math.isfinite(value) else None


def _wrong(name: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"reward {name}", value, rule=rule, fix=f"Fix the return value of {name}")
