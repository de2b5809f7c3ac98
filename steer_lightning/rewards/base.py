"""What a reward is, and what it may return.

No tensors here: a reward sees text and facts.
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
    """Scores completions. A plain function of the same form is one, too.

    Returns one number a completion, or None where it can't be scored: such a completion is left out
    of its group's baseline and counted. A `Verdict` is a number that also says why.

    Each completion is scored by itself in a worker process, under a deadline (`RewardPool`); one
    that takes too long or raises an exception has no score, since what crashed may be the reward. A
    reward that can't be pickled, or has an attribute `in_process = True`, runs in the training
    process on all completions of a step at once, without a deadline, and an exception stops the
    run. A coroutine function (`async def`) is run as an `AsyncReward`.

    Attributes that a reward may have: `in_process`; `bounds`, the smallest and the largest score,
    between which the progress bar draws; `outcomes`, the names of its verdicts, which are counted
    and logged; `warm_up()`, called once before the workers start, for slow imports;
    `quickly(completion)`, which scores in the training process what takes microseconds whatever the
    text is, and returns NotImplemented for the rest; `probe(completion)`, which makes a harmless
    completion of the same problem: where that one is scored, a completion that takes too long or
    crashes is at fault itself, and its score is 0 with the outcome `incomparable`, so that a policy
    can't choose to have no score.
    """

    def __call__(self, completions: Any, /) -> Any:
        """Takes a list of `Completion`, of one or several prompts.

        Returns a list of as many numbers or None.
        """
        ...


INCOMPARABLE = "incomparable"
"""Outcome of a completion that can't be compared, by its own doing; its score is 0."""


class Verdict(float):
    """A score that also says why, such as `Verdict(0, "no_answer")`.

    Args:
        score: Value of the reward.
        outcome: One of the reward's `outcomes`.
    """

    outcome: str

    def __new__(cls, score: float, outcome: str) -> Verdict:
        """Makes a float with an attribute."""
        verdict = super().__new__(cls, score)
        verdict.outcome = outcome
        return verdict


def wrong_return(error: ConfigError) -> str:
    """Says in a sentence, which a worker can send, what `check_scores` has refused."""
    return f"{error.rule} (it returned {error.value!r:.100})"


def outcome_of(score: float | None) -> str:
    """Returns a verdict's own name; `scored` or `unscored` for other scores."""
    if isinstance(score, Verdict):
        return score.outcome
    return "unscored" if score is None else "scored"


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
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often each outcome came up, by reward: `timed_out`, `crashed`, and the reward's own."""
    each: dict[str, list[str]] = field(default_factory=dict)
    """The outcome of each of the N completions, by reward."""


def reward_name(reward: Reward) -> str:
    """Returns the name of a reward's function or class."""
    return getattr(reward, "__name__", type(reward).__name__)


def check_scores(name: str, scores: Any, num_completions: int) -> list[float | None]:
    """Turns what a reward returned into floats.

    Args:
        name: Name of the reward.
        scores: A list, or what can be read in its order as one: a tuple, a one-dimensional array
            or tensor, a column of a table. Its numbers may be of any kind.
        num_completions: Number of scores that there must be.

    Raises:
        ConfigError: If it returned the wrong count, NaN, infinity, or something that is no number;
            a mapping, a set, a table, text, or a masked or dated element among them; it names the
            reward.
    """
    if isinstance(scores, (Mapping, Set)):  # in no order that is the completions'
        kind = "dict" if isinstance(scores, Mapping) else "set"
        raise _wrong(name, type(scores).__name__, f"must return a list of numbers, not a {kind}")
    if isinstance(scores, (str, bytes, bytearray, memoryview)) or not hasattr(scores, "__len__"):
        raise _wrong(name, type(scores).__name__, "must return a list of numbers")
    shape = getattr(scores, "shape", None)
    axes = 1 if shape is None else len(shape)
    if axes != 1:  # a table's elements are the names of its columns
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
                name, score, "must return finite numbers, or None for what can't be scored"
            )
        checked.append(value)
    return checked


def _finite(score: Any) -> float | None:
    """Returns a number of any kind as a float, a verdict as it is, and None for anything else."""
    if isinstance(score, Verdict):
        return score if math.isfinite(score) else None
    if getattr(score, "shape", None) == () and hasattr(score, "item"):  # of an array or a tensor
        is_time = getattr(getattr(score, "dtype", None), "kind", "") in ("M", "m")
        if is_time or getattr(score, "mask", False):  # would be nanoseconds; would be 0
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
    return ConfigError(f"reward {name}", value, rule=rule, fix=f"Mend what {name} returns")
