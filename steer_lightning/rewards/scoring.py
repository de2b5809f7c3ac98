"""The scoring of batches: the place where each reward runs, and the weighted sum of all.

A reward runs in the training process or in the workers of a pool. `RewardSum` knows the place of
each reward, and `Scoring` sends one batch through all of them.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.rewards.asynchronous import AsyncReward, is_async
from steer_lightning.rewards.base import (
    INCOMPARABLE,
    Reward,
    Scores,
    Verdict,
    WeightedReward,
    check_scores,
    outcome_of,
    reward_name,
)
from steer_lightning.rewards.pool import RewardPool
from steer_lightning.system.printable import indented, one_line
from steer_lightning.types import Completion

log = logging.getLogger(__name__)

FAILURES = ("timed_out", "crashed")
"""Outcomes that are counted for every reward, in addition to its own."""

RESERVED = {*FAILURES, "scored", "unscored", "wrong_return"}
"""Names that an outcome can't have."""

MANY = 4
"""If this many completions crash before any has been scored, the reward is at fault."""

LARGEST = 3.4e38
"""Largest size of a sum of rewards; beyond it, the sum is infinite in float32."""

Answer = dict[str, Any]
"""`score` (float or None), `outcome`, `detail`."""


class Place(Protocol):
    """The place where a reward runs."""

    def submit(self, completion: Completion) -> Any:
        """Starts scoring; returns a ticket for `collect`."""

    def collect(self, tickets: Sequence[Any]) -> list[Answer]:
        """Waits for the answers, in the order of the tickets."""

    def forget(self, ticket: Any) -> None:
        """Drops a completion that has been replaced by another one."""


class Here:
    """Scores in the training process, all completions at once."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def submit(self, completion: Completion) -> Completion:
        """Keeps the completion for later."""
        return completion

    def collect(self, tickets: Sequence[Completion]) -> list[Answer]:
        """Scores all completions; a process without any, as in a guided round, asks nothing."""
        returned = self.reward(list(tickets)) if tickets else []
        scores = check_scores(reward_name(self.reward), returned, len(tickets))
        return [_answer(score) for score in scores]

    def forget(self, ticket: Completion) -> None:
        """Does nothing, since scoring has not begun."""


class _Task(NamedTuple):
    """A completion in the pool."""

    number: int
    completion: Completion


class Pooled:
    """Scores in the workers of the pool, except completions that the reward can score at once."""

    def __init__(self, reward: Reward, pool: RewardPool) -> None:
        self.name, self.pool, self.number = reward_name(reward), pool, pool.register(reward)
        self.quickly = getattr(reward, "quickly", lambda completion: NotImplemented)
        self.probe = getattr(reward, "probe", None)
        self._good: set[tuple[str, str]] = set()  # problems whose probe was scored

    def submit(self, completion: Completion) -> _Task | Answer:
        """Scores the completion at once, or passes it to a worker."""
        score = self.quickly(completion)
        if score is NotImplemented:
            return _Task(self.pool.submit(self.number, completion), completion)
        if isinstance(score, Verdict) and math.isfinite(score):
            return {"score": score, "outcome": score.outcome, "detail": ""}
        (score,) = check_scores(f"{self.name}.quickly", [score], 1)
        return _answer(score)

    def collect(self, tickets: Sequence[_Task | Answer]) -> list[Answer]:
        """Waits for the workers."""
        tasks = [ticket for ticket in tickets if isinstance(ticket, _Task)]
        found = iter(self._collect_tasks(tasks) if tasks else ())
        return [next(found) if isinstance(ticket, _Task) else ticket for ticket in tickets]

    def forget(self, ticket: _Task | Answer) -> None:
        """Drops the completion, though it may still be scored."""
        if isinstance(ticket, _Task):
            self.pool.forget(ticket.number)

    def _collect_tasks(self, tasks: Sequence[_Task]) -> list[Answer]:
        """Gives 0 if a failure is the completion's own fault, as the problem's probe shows."""
        answers = self.pool.collect([task.number for task in tasks])
        if self.probe is None:
            return answers
        probes = {
            n: self.probe(task.completion)
            for n, (task, answer) in enumerate(zip(tasks, answers, strict=True))
            if answer["outcome"] in FAILURES
        }
        keys = {n: (probe.question, probe.answer) for n, probe in probes.items()}
        # a failed probe is tried again next time, because a busy machine may have been at fault
        asked = {keys[n]: probe for n, probe in probes.items() if keys[n] not in self._good}
        found = self.pool.collect([self.pool.submit(self.number, x) for x in asked.values()])
        scored = zip(asked, found, strict=True)
        self._good |= {key for key, answer in scored if answer["score"] is not None}
        at_fault = {n for n, key in keys.items() if key in self._good}
        wrong = {"score": 0.0, "outcome": INCOMPARABLE}
        return [{**x, **wrong} if n in at_fault else x for n, x in enumerate(answers)]


def _answer(score: float | None) -> Answer:
    return {"score": score, "outcome": outcome_of(score), "detail": ""}


def _sum(scored: dict[str, float]) -> float:
    """Adds up the weighted scores of a completion.

    Raises:
        ConfigError: If the sum is beyond `LARGEST`; the error names the reward that contributes
            most.
    """
    total = sum(scored.values())
    if abs(total) <= LARGEST:
        return total
    name = max(scored, key=lambda name: abs(scored[name]))
    raise ConfigError(
        f"reward {name}",
        scored[name],
        rule=f"its score times its weight makes the sum of rewards larger than {LARGEST:g}",
        why="Advantages are computed in float32, in which such a sum is infinite",
        fix=f"Lower the scores of {name}, or its weight",
    )


def _own(reward: Reward) -> Reward:
    """Returns the user's own object, which holds the attributes of a reward."""
    return reward.judge if isinstance(reward, AsyncReward) else reward


def _own_outcomes(reward: Reward) -> tuple[str, ...]:
    reward = _own(reward)
    own = tuple(getattr(reward, "outcomes", ()))
    return own if INCOMPARABLE in own or not hasattr(reward, "probe") else (*own, INCOMPARABLE)


def _own_bounds(name: str, reward: Reward) -> tuple[float, float] | None:
    """Returns the smallest and the largest score of a reward, if it has `bounds`.

    Raises:
        ConfigError: If its `bounds` are not two numbers, the smaller one first.
    """
    bounds = getattr(_own(reward), "bounds", None)
    if bounds is None:
        return None
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -LARGEST <= low < high <= LARGEST:
        raise ConfigError(
            f"reward {name}.bounds",
            bounds,
            rule="must be two numbers, the smallest and the largest score",
            fix="Write them as a tuple, such as bounds = (0, 1), or leave them out",
        )
    return low, high


class RewardSum:
    """The weighted sum of several rewards.

    Args:
        rewards: Rewards with weights; rewards with the same name are numbered. Without any, no
            completion has a score.
        pool: Pool for the rewards that can run in another process; with None, all run in this one.

    Attributes:
        bounds: Smallest and largest possible sum; None if a reward does not have `bounds`.

    Raises:
        ConfigError: If there are rewards but all weights are 0, or an attribute of a reward is
            invalid.
    """

    def __init__(self, rewards: Sequence[WeightedReward], pool: RewardPool | None = None) -> None:
        if rewards and not any(part.weight for part in rewards):
            raise ConfigError(
                "model.rewards",
                [reward_name(part.reward) for part in rewards],
                rule="needs at least one reward with a weight other than 0",
                why="Without a reward there is nothing to learn",
            )
        self.pool = pool
        self.parts: dict[str, WeightedReward] = {}
        for part in rewards:
            name = base = reward_name(part.reward)
            number = 2
            while name in self.parts:
                name, number = f"{base}_{number}", number + 1
            self.parts[name] = part
        self.bounds = self._bounds()
        self._places = {name: self._place(name, part.reward) for name, part in self.parts.items()}
        self._has_told: set[str] = set()
        self._has_scored: set[str] = set()

    def _place(self, name: str, reward: Reward) -> Place:
        taken = RESERVED & set(_own_outcomes(reward))
        if taken:
            raise ConfigError(
                f"reward {name}.outcomes",
                sorted(taken),
                rule="are names that the package uses itself",
                fix="Use other names",
            )
        if isinstance(reward, AsyncReward):
            return reward
        if is_async(reward):
            return AsyncReward(reward)
        if self.pool is None or getattr(reward, "in_process", False):
            return Here(reward)
        reason = self.pool.why_not(reward)
        if reason:
            log.warning(
                "reward %s runs in the training process, without a deadline: %s",
                one_line(name),
                one_line(reason),
            )
            return Here(reward)
        return Pooled(reward, self.pool)

    def _bounds(self) -> tuple[float, float] | None:
        low = high = 0.0
        parts = {name: part for name, part in self.parts.items() if part.weight}
        every = [_own_bounds(name, part.reward) for name, part in parts.items()]
        for part, bounds in zip(parts.values(), every, strict=True):
            if bounds is None:
                return None
            ends = [part.weight * end for end in bounds]
            low, high = low + min(ends), high + max(ends)
        return (low, high) if parts else None

    def start(self) -> Scoring:
        """Starts scoring a batch."""
        return Scoring(self)

    def __call__(self, completions: Sequence[Completion]) -> Scores:
        """Scores N completions with every reward, and adds up the weighted scores."""
        with closing(self.start()) as scoring:
            return scoring.result(completions)

    def close(self) -> None:
        """Ends threads and processes."""
        for place in self._places.values():
            if isinstance(place, AsyncReward):
                place.close()
        if self.pool is not None:
            self.pool.close()

    def _total(self, parts: dict[str, list[float | None]], num_rows: int) -> list[float | None]:
        weights = {name: part.weight for name, part in self.parts.items() if part.weight}
        if not weights:
            return [None] * num_rows
        total: list[float | None] = []
        for n in range(num_rows):
            values = ((name, weight, parts[name][n]) for name, weight in weights.items())
            scored = {name: weight * value for name, weight, value in values if value is not None}
            total.append(_sum(scored) if len(scored) == len(weights) else None)
        return total

    def outcomes_of(self, name: str) -> tuple[str, ...]:
        """Returns the outcomes that are counted for a reward."""
        return (*_own_outcomes(self.parts[name].reward), *FAILURES)

    def _check(self, name: str, answers: Sequence[Answer]) -> None:
        """Raises a ConfigError for a mistake in the reward, and warns about its first crash."""
        known = self.outcomes_of(name)
        for answer in answers:
            if answer["outcome"] == "wrong_return":
                fix = f"Fix the return value of {name}"
                raise ConfigError(f"reward {name}", UNKNOWN, rule=answer["detail"], fix=fix)
            if answer["outcome"] not in (*known, "scored", "unscored"):
                raise ConfigError(
                    f"reward {name}",
                    answer["outcome"],
                    rule="must name each outcome of its verdicts in its attribute `outcomes`",
                    why="Every process counts and logs these outcomes",
                    fix=f"Add it to {name}.outcomes",
                )
        if any(answer["outcome"] not in FAILURES for answer in answers):
            self._has_scored.add(name)
        crashed = [answer["detail"] for answer in answers if answer["outcome"] == "crashed"]
        if not crashed:
            return
        detail = indented(crashed[0].strip())
        # one prompt on which the reward always crashes must not end a run that went well for days
        if len(crashed) == len(answers) >= MANY and name not in self._has_scored:
            raise ConfigError(
                f"reward {name}",
                f"{len(crashed)} completions",
                rule="crashed on all of them",
                why=detail,
                fix=f"Fix {name}; steer_lightning.testing.check_reward tests it on your own "
                "completions",
            )
        if name not in self._has_told:
            self._has_told.add(name)
            log.warning(
                "reward %s crashed on %d of %d completions, which have no score. Further crashes "
                "are counted in reward/%s/num_crashed. The first crash: %s",
                one_line(name),
                len(crashed),
                len(answers),
                one_line(name),
                detail,
            )


class Scoring:
    """The scoring of one batch by all rewards.

    Args:
        rewards: Rewards that score the batch.
    """

    def __init__(self, rewards: RewardSum) -> None:
        self._rewards = rewards
        self._added: dict[int, Completion] = {}
        self._tickets: dict[int, dict[str, Any]] = {}

    def close(self) -> None:
        """Forgets all completions, also those of a rollout that has failed."""
        for tickets in self._tickets.values():
            for name, ticket in tickets.items():
                self._rewards._places[name].forget(ticket)
        self._tickets.clear()
        self._added.clear()

    def add(self, row: int, completion: Completion) -> None:
        """Submits row n of the batch as soon as it has been sampled.

        A second completion of the same row replaces the first one.
        """
        if self._added.get(row) == completion:
            return
        places = self._rewards._places
        for name, ticket in self._tickets.get(row, {}).items():
            places[name].forget(ticket)
        self._added[row] = completion
        self._tickets[row] = {name: place.submit(completion) for name, place in places.items()}

    def result(self, completions: Sequence[Completion]) -> Scores:
        """Waits for the scores of all N completions, including any that have not been added.

        Raises:
            ConfigError: If a reward returns something invalid, or crashes on every completion.
        """
        for row, completion in enumerate(completions):
            self.add(row, completion)
        parts: dict[str, list[float | None]] = {}
        outcomes: dict[str, dict[str, int]] = {}
        each: dict[str, list[str]] = {}
        for name, place in self._rewards._places.items():
            answers = place.collect([self._tickets[n][name] for n in range(len(completions))])
            self._rewards._check(name, answers)
            parts[name] = [answer["score"] for answer in answers]
            each[name] = [answer["outcome"] for answer in answers]
            counts = Counter(each[name])
            outcomes[name] = {key: counts[key] for key in self._rewards.outcomes_of(name)}
        total = self._rewards._total(parts, len(completions))
        return Scores(total=total, parts=parts, outcomes=outcomes, each=each)
