"""The weighted sum of several rewards, each scored where it can be scored best."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.rewards.asynchronous import AsyncReward, is_async
from steer_lightning.rewards.base import (
    INCOMPARABLE,
    Reward,
    Scores,
    WeightedReward,
    reward_name,
)
from steer_lightning.rewards.pool import RewardPool
from steer_lightning.rewards.scoring_places import FAILURES, Answer, Here, Place, Pooled
from steer_lightning.system.printable import one_line, printable
from steer_lightning.types import Completion

log = logging.getLogger(__name__)

RESERVED = {*FAILURES, "scored", "unscored", "wrong_return"}
"""What a verdict can't be called."""

MANY = 4
"""So many completions that all crash, before any was scored, are a mistake of the reward."""


def _own_outcomes(reward: Reward) -> tuple[str, ...]:
    reward = reward.judge if isinstance(reward, AsyncReward) else reward
    own = tuple(getattr(reward, "outcomes", ()))
    return own if INCOMPARABLE in own or not hasattr(reward, "probe") else (*own, INCOMPARABLE)


class RewardSum:
    """The weighted sum of several rewards.

    Args:
        rewards: Two of the same name are numbered. Without any, no completion has a score.
        pool: Runs those that can run in a process of their own; null runs all in this one.

    Raises:
        ConfigError: If there are some, and no weight differs from 0.
    """

    def __init__(self, rewards: Sequence[WeightedReward], pool: RewardPool | None = None) -> None:
        if rewards and not any(part.weight for part in rewards):
            raise ConfigError(
                "model.rewards",
                [reward_name(part.reward) for part in rewards],
                rule="needs at least one reward with a weight other than 0",
                why="With no reward there is nothing to learn",
            )
        self.pool = pool
        self.parts: dict[str, WeightedReward] = {}
        for part in rewards:
            name = base = reward_name(part.reward)
            number = 2
            while name in self.parts:
                name, number = f"{base}_{number}", number + 1
            self.parts[name] = part
        self._places = {name: self._place(name, part.reward) for name, part in self.parts.items()}
        self._has_told: set[str] = set()
        self._has_scored: set[str] = set()

    def _place(self, name: str, reward: Reward) -> Place:
        taken = RESERVED & set(_own_outcomes(reward))
        if taken:
            raise ConfigError(
                f"reward {name}.outcomes",
                sorted(taken),
                rule="are names that the package gives itself",
                fix="Call them otherwise",
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

    def start(self) -> Scoring:
        """Begins with a batch."""
        return Scoring(self)

    def __call__(self, completions: Sequence[Completion]) -> Scores:
        """Scores N completions with every part, and adds them up."""
        return self.start().result(completions)

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
            values = [(weight, parts[name][n]) for name, weight in weights.items()]
            scored = [weight * value for weight, value in values if value is not None]
            total.append(sum(scored) if len(scored) == len(values) else None)
        return total

    def _outcomes(self, name: str) -> tuple[str, ...]:
        """What is counted for a reward."""
        return (*_own_outcomes(self.parts[name].reward), *FAILURES)

    def _check(self, name: str, answers: Sequence[Answer]) -> None:
        """Stops for a mistake of the reward; tells of the first crash."""
        known = self._outcomes(name)
        for answer in answers:
            if answer["outcome"] == "wrong_return":
                fix = f"Mend what {name} returns"
                raise ConfigError(f"reward {name}", UNKNOWN, rule=answer["detail"], fix=fix)
            if answer["outcome"] not in (*known, "scored", "unscored"):
                raise ConfigError(
                    f"reward {name}",
                    answer["outcome"],
                    rule="must name each outcome of its verdicts in its attribute `outcomes`",
                    why="Those are counted and logged by every process alike",
                    fix=f"Add it to {name}.outcomes",
                )
        crashed = [answer["detail"] for answer in answers if answer["outcome"] == "crashed"]
        if not crashed:
            return
        detail = printable(crashed[0].strip())
        if any(answer["outcome"] not in FAILURES for answer in answers):
            self._has_scored.add(name)
        # one prompt on which it always crashes must not end a run that has gone well for days
        if len(crashed) == len(answers) >= MANY and name not in self._has_scored:
            raise ConfigError(
                f"reward {name}",
                f"{len(crashed)} completions",
                rule="crashed on every one of them",
                why=detail,
                fix=f"Mend {name}; steer_lightning.testing.check_reward tries it on completions "
                "of your own",
            )
        if name not in self._has_told:
            self._has_told.add(name)
            log.warning(
                "reward %s crashed on %d of %d completions, which have no score. Further ones are "
                "counted in reward/%s/num_crashed. The first:\n%s",
                one_line(name),
                len(crashed),
                len(answers),
                one_line(name),
                detail,
            )


class Scoring:
    """One batch on its way through the rewards.

    Args:
        rewards: The parts.
    """

    def __init__(self, rewards: RewardSum) -> None:
        self._rewards = rewards
        self._added: dict[int, Completion] = {}
        self._tickets: dict[int, dict[str, Any]] = {}

    def add(self, row: int, completion: Completion) -> None:
        """Hands in row n of the batch as soon as it has been sampled.

        A second completion of the same row takes the first one's place.
        """
        if self._added.get(row) == completion:
            return
        places = self._rewards._places
        for name, ticket in self._tickets.get(row, {}).items():
            places[name].forget(ticket)
        self._added[row] = completion
        self._tickets[row] = {name: place.submit(completion) for name, place in places.items()}

    def result(self, completions: Sequence[Completion]) -> Scores:
        """Waits for the scores of all N completions, those included that have not been added.

        Raises:
            ConfigError: If a reward returns what it must not, or crashes on every completion.
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
            outcomes[name] = {key: counts[key] for key in self._rewards._outcomes(name)}
        total = self._rewards._total(parts, len(completions))
        return Scores(total=total, parts=parts, outcomes=outcomes, each=each)
