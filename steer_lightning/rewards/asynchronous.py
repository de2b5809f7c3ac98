"""Rewards that wait for remote judges, called concurrently."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.rewards.base import (
    Reward,
    check_scores,
    outcome_of,
    reward_name,
    wrong_return,
)
from steer_lightning.system.printable import one_line
from steer_lightning.types import Completion

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds after the deadline at which the event loop is considered blocked."""


class AsyncReward:
    """Makes a reward from a coroutine function, such as a request to a remote judge.

    The function runs in the training process, in a separate thread, on one completion at a time,
    while other completions are still being sampled.

    Args:
        judge: Function `async def judge(completions)`, or an object with such a `__call__`, that
            returns a list of numbers or None, as in `Reward`. Each call gets one completion.
        deadline: Maximum number of seconds for one completion, including all attempts.
        max_concurrency: Maximum number of calls at the same time.
        retries: Number of further attempts after an exception.
        backoff: Seconds before the first further attempt; each later one waits twice as long.

    Raises:
        ConfigError: If a number is out of range, or `judge` is not a coroutine function.
    """

    def __init__(
        self,
        judge: Reward,
        deadline: float = 60.0,
        max_concurrency: int = 16,
        retries: int = 3,
        backoff: float = 1.0,
    ) -> None:
        if not is_async(judge):
            raise ConfigError(
                "AsyncReward.judge",
                reward_name(judge),
                rule="must be a coroutine function (async def)",
                fix="Set a plain function directly as the reward",
            )
        for key, value, holds in (
            ("deadline", deadline, 0 < deadline < float("inf")),
            ("max_concurrency", max_concurrency, max_concurrency >= 1),
            ("retries", retries, retries >= 0),
            ("backoff", backoff, backoff >= 0),
        ):
            if not holds:
                raise ConfigError(f"AsyncReward.{key}", value, rule="is out of range")
        self.judge, self.deadline, self.max_concurrency = judge, deadline, max_concurrency
        self.retries, self.backoff = retries, backoff
        self.__name__ = reward_name(judge)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        """Scores completions; a failed one gets None."""
        futures = [self.submit(completion) for completion in completions]
        return [answer["score"] for answer in self.collect(futures)]

    def submit(self, completion: Completion) -> concurrent.futures.Future[dict[str, Any]]:
        """Starts scoring a completion."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._slots = asyncio.Semaphore(self.max_concurrency)
            name = f"reward {self.__name__}"
            self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._score(completion), self._loop)

    def collect(
        self, futures: Sequence[concurrent.futures.Future[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Waits for the answers, which have the keys of `RewardPool.collect` except `seconds`.

        Raises:
            ConfigError: If the judge blocks its event loop, so that no deadline can be kept.
        """
        waiting = set(futures)
        while waiting:
            # not FIRST_COMPLETED: for each of N answers it would look at all that are still open
            done, waiting = concurrent.futures.wait(waiting, self.deadline + PATIENCE)
            if not done:
                raise ConfigError(
                    f"reward {self.__name__}",
                    f"no answer in {self.deadline + PATIENCE:g} s",
                    rule="must not block its event loop",
                    why="While it waits without `await`, no other call can proceed and no "
                    "deadline is kept",
                    fix="Await an asynchronous client, or make it a plain function, which runs "
                    "in a worker process",
                )
        return [future.result() for future in futures]

    def forget(self, future: concurrent.futures.Future[dict[str, Any]]) -> None:
        """Cancels a call whose answer is not needed."""
        future.cancel()

    def close(self) -> None:
        """Ends the thread, if it is not blocked."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            loop.run_until_complete(_cancel_all())
            loop.close()

    async def _score(self, completion: Completion) -> dict[str, Any]:
        async with self._slots:
            attempts = asyncio.ensure_future(self._attempts(completion))
            try:
                done, _ = await asyncio.wait({attempts}, timeout=self.deadline)
            finally:  # also if the completion is forgotten
                attempts.cancel()  # not awaited, because a judge may ignore its cancellation
            if done:
                return attempts.result()
            detail = f"no answer in {self.deadline:g} s"
            return {"score": None, "outcome": "timed_out", "detail": detail}

    async def _attempts(self, completion: Completion) -> dict[str, Any]:
        for attempt in range(self.retries + 1):
            try:
                returned = await self.judge([completion])
                (score,) = check_scores(self.__name__, returned, 1)
                return {"score": score, "outcome": outcome_of(score), "detail": ""}
            except ConfigError as error:
                return {"score": None, "outcome": "wrong_return", "detail": wrong_return(error)}
            except Exception:  # network and server errors have no common class
                detail = traceback.format_exc(limit=-4)
            # these would end the loop and all other calls with it
            except (SystemExit, KeyboardInterrupt, asyncio.CancelledError):
                detail = traceback.format_exc(limit=-4)
                break
            if attempt < self.retries:
                log.debug("reward %s: attempt %d failed", one_line(self.__name__), attempt + 1)
                await asyncio.sleep(self.backoff * 2**attempt)
        return {"score": None, "outcome": "crashed", "detail": detail}

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the thread; a copy starts its own."""
        return {**self.__dict__, "_loop": None, "_slots": None, "_thread": None}


async def _cancel_all() -> None:
    """Ends all tasks in the event loop that can be ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1.0)
    await asyncio.get_running_loop().shutdown_asyncgens()


def refuse_async(name: str, reward: Any) -> None:
    """Raises a ConfigError for a coroutine function, whose call returns no numbers."""
    if is_async(reward):
        raise ConfigError(
            f"reward {name}",
            UNKNOWN,
            rule="is a coroutine function (async def), whose call returns no numbers",
            fix="Wrap it: AsyncReward(reward), with AsyncReward from steer_lightning.rewards",
        )


def is_async(reward: Any) -> bool:
    """Returns whether a reward returns a coroutine when it is called."""
    from inspect import iscoroutinefunction

    return iscoroutinefunction(reward) or iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004  # not whether it is callable, but how
