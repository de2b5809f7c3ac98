"""The problems of a run from which a person chooses, and the verdict on answers to them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from steer_lightning.data.prompts import load_problems
from steer_lightning.errors import ConfigError
from steer_lightning.rewards import MathReward, Reward, RewardPool, RewardSum, WeightedReward
from steer_lightning.system.printable import one_line
from steer_lightning.types import Completion, Problem, Source

log = logging.getLogger(__name__)

MOST_PROBLEMS = 500
"""Number of problems of each source from which one can be chosen."""
SHOWN = 100
"""Number of characters of a question in the list."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict on an answer.

    Attributes:
        score: Score of the verifier; None if it could not be told.
        outcome: Reason, such as `right` or `no_answer`.
        answer: Gold answer.
    """

    score: float | None
    outcome: str
    answer: str

    @property
    def text(self) -> str:
        """The verdict for people."""
        told = self.outcome.replace("_", " ")
        return told if self.score == 1 else f"{told}; the answer is {one_line(self.answer)}"


class Questions:
    """Problems with known answers.

    Args:
        sources: Sources of problems by name.
        verifier: Reward that judges; default: `MathReward`.
    """

    def __init__(self, sources: Mapping[str, Source], verifier: Reward | None = None) -> None:
        self._sources = sources
        pool = RewardPool(num_workers=1)
        self._judge = RewardSum([WeightedReward(reward=verifier or MathReward())], pool)
        self.problems: dict[str, Problem] = {}
        """Problems by their line in the list."""
        self._of: dict[str, list[Problem]] = {}
        self._lock = threading.Lock()  # of the pool, which one thread may use at a time
        self._is_closed = False

    def load(self) -> None:
        """Reads the problems; a source that can't be read is left out with a warning."""
        for name, source in self._sources.items():
            try:
                found = load_problems(source, f"benchmarks.{name}")
            except (ConfigError, OSError) as error:
                told = "no problems of %s to choose from: %s"
                log.warning(told, one_line(name), one_line(error))
                continue
            for number, problem in enumerate(found[:MOST_PROBLEMS], start=1):
                question = one_line(problem.question)
                shown = question if len(question) <= SHOWN else f"{question[: SHOWN - 1]}…"
                self.problems[f"{one_line(name)} {number}: {shown}"] = problem
                self._of.setdefault(_plain(problem.question), []).append(problem)

    def judge(self, question: str, text: str, num_tokens: int, finished: bool) -> Judged | None:
        """Judges an answer; this may take seconds.

        Args:
            question: Question that was asked.
            text: Answer.
            num_tokens: Number of tokens of the answer.
            finished: Whether the model ended the answer itself.

        Returns:
            The verdict; None if the answer is not known, or problems with this question disagree.
        """
        problems = self._of.get(_plain(question), [])
        if len({problem.answer for problem in problems}) != 1:
            return None
        problem = problems[0]
        completion = Completion(
            text=text,
            question=question,
            answer=problem.answer,
            num_tokens=num_tokens,
            finished=finished,
            columns=problem.columns,
        )
        with self._lock:
            if self._is_closed:
                return None
            scores = self._judge([completion])
        (outcomes,) = scores.each.values()
        return Judged(score=scores.total[0], outcome=outcomes[0], answer=problem.answer)

    def close(self) -> None:
        """Ends the process that judges; there are no verdicts afterwards."""
        with self._lock:
            self._is_closed = True
            self._judge.close()


def _plain(question: str) -> str:
    """Returns a question as a browser sends it back."""
    return question.replace("\r\n", "\n").replace("\r", "\n")
