"""Where a reward runs: in the training process, or in the workers of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from steer_lightning.rewards.base import (
    INCOMPARABLE,
    Reward,
    check_scores,
    outcome_of,
    reward_name,
)
from steer_lightning.rewards.pool import RewardPool
from steer_lightning.types import Completion

FAILURES = ("timed_out", "crashed")
"""Outcomes that are counted for every reward, whatever its own are."""

Answer = dict[str, Any]
"""`score` (float or None), `outcome`, `detail`."""


class Place(Protocol):
    """Where a reward runs."""

    def submit(self, completion: Completion) -> Any:
        """Begins to score; returns the ticket that `collect` takes."""

    def collect(self, tickets: Sequence[Any]) -> list[Answer]:
        """Waits for the answers, in the order of the tickets."""

    def forget(self, ticket: Any) -> None:
        """Drops a completion whose place another one has taken."""


class Here:
    """In the training process, all completions at once."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def submit(self, completion: Completion) -> Completion:
        """Keeps it for later."""
        return completion

    def collect(self, tickets: Sequence[Completion]) -> list[Answer]:
        """Scores them all."""
        returned = self.reward(list(tickets))
        scores = check_scores(reward_name(self.reward), returned, len(tickets))
        return [_answer(score) for score in scores]

    def forget(self, ticket: Completion) -> None:
        """Has nothing to undo."""


class _Task(NamedTuple):
    """A completion in the pool."""

    number: int
    completion: Completion


class Pooled:
    """In the pool's workers, but for what the reward can tell at once."""

    def __init__(self, reward: Reward, pool: RewardPool) -> None:
        self.name, self.pool, self.number = reward_name(reward), pool, pool.register(reward)
        self.quickly = getattr(reward, "quickly", lambda completion: NotImplemented)
        self.probe = getattr(reward, "probe", None)
        self._is_good: dict[tuple[str, str], bool] = {}  # whether a problem's probe was scored

    def submit(self, completion: Completion) -> _Task | Answer:
        """Scores it at once, or hands it to a worker."""
        score = self.quickly(completion)
        if score is NotImplemented:
            return _Task(self.pool.submit(self.number, completion), completion)
        (score,) = check_scores(f"{self.name}.quickly", [score], 1)
        return _answer(score)

    def collect(self, tickets: Sequence[_Task | Answer]) -> list[Answer]:
        """Waits for the workers."""
        tasks = [ticket for ticket in tickets if isinstance(ticket, _Task)]
        answers = self._with_blame(tasks, self.pool.collect([task.number for task in tasks]))
        found = iter(answers)
        return [next(found) if isinstance(ticket, _Task) else ticket for ticket in tickets]

    def forget(self, ticket: _Task | Answer) -> None:
        """Drops it, though it may still be scored."""
        if isinstance(ticket, _Task):
            self.pool.forget(ticket.number)

    def _with_blame(self, tasks: Sequence[_Task], answers: list[Answer]) -> list[Answer]:
        """Scores 0 where a failure is the completion's own doing, as the problem's probe shows."""
        if self.probe is None:
            return answers
        probes = {
            n: self.probe(task.completion)
            for n, (task, answer) in enumerate(zip(tasks, answers, strict=True))
            if answer["outcome"] in FAILURES
        }
        keys = {n: (probe.question, probe.answer) for n, probe in probes.items()}
        asked = {keys[n]: probe for n, probe in probes.items() if keys[n] not in self._is_good}
        found = self.pool.collect([self.pool.submit(self.number, x) for x in asked.values()])
        for key, answer in zip(asked, found, strict=True):
            self._is_good[key] = answer["score"] is not None
        at_fault = {n for n, key in keys.items() if self._is_good[key]}
        wrong = {"score": 0.0, "outcome": INCOMPARABLE}
        return [{**x, **wrong} if n in at_fault else x for n, x in enumerate(answers)]


def _answer(score: float | None) -> Answer:
    return {"score": score, "outcome": outcome_of(score), "detail": ""}
