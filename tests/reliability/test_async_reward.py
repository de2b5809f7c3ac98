"""Coroutines as rewards that fail, hang, block, and never end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import AsyncReward, RewardPool, Verdict
from tests.reliability import hostile
from tests.reliability.hostile import make
from tests.reliability.pool_family import rewards

# ---- coroutines


class Server:
    """Stands for a remote judge that fails, hangs and counts."""

    outcomes = ("praised",)

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0

    async def __call__(self, completions):  # type: ignore[no-untyped-def]
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.02)
            text = completions[0].text
            if text == "hang":
                await asyncio.sleep(1000)
            if text == "exit":
                sys.exit(3)
            if text == "cancel":
                raise asyncio.CancelledError
            while text == "never":
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
            if text == "down" or (text == "flaky" and self.calls % 3):
                raise ConnectionError("no route")
            return [Verdict(1.0, "praised")]
        finally:
            self.now -= 1


@pytest.mark.usefixtures("nothing_left")
def test_coroutines_have_a_limit_a_deadline_and_retries() -> None:
    server = Server()
    judge = AsyncReward(server, deadline=0.5, max_concurrency=4, retries=2, backoff=0.01)
    with closing(rewards(RewardPool(), judge)) as total:
        assert total([make("good")] * 20).total == [1.0] * 20
        assert server.most == 4
        server.calls = 0
        assert total([make("flaky")]).total == [1.0]
        assert server.calls == 3
        scores = total([make("down"), make("hang"), make("good")])
        assert scores.total == [None, None, 1.0]
        assert scores.outcomes["Server"] == {"praised": 1, "timed_out": 1, "crashed": 1}
        assert server.calls == 3 + 3 + 1 + 1
        scores = total([make(text) for text in ("exit", "cancel", "never", "good")])
        assert scores.total == [None, None, None, 1.0]
        assert scores.outcomes["Server"] == {"praised": 1, "timed_out": 1, "crashed": 2}


def test_a_call_that_is_forgotten_ends() -> None:
    server = Server()
    judge = AsyncReward(server, deadline=100, max_concurrency=1)
    with closing(judge):
        call = judge.submit(make("hang"))
        until(lambda: server.now == 1)
        judge.forget(call)
        until(lambda: server.now == 0)
        assert judge([make("good")]) == [1.0], "its place is free"


def test_each_attempt_waits_twice_as_long_and_all_have_one_deadline() -> None:
    times: list[float] = []

    async def down(completions):  # type: ignore[no-untyped-def]
        times.append(time.monotonic())
        raise ConnectionError

    with closing(AsyncReward(down, retries=2, backoff=0.2)) as judge:
        judge([make("x")])
    first, second = times[1] - times[0], times[2] - times[1]
    assert len(times) == 3
    assert 0.2 <= first < 0.39
    assert 0.4 <= second < 0.79
    times.clear()
    with closing(AsyncReward(down, deadline=0.4, retries=5, backoff=0.3)) as judge:
        (answer,) = judge.collect([judge.submit(make("x"))])
    assert len(times) == 2, "the third would come after 0.9 s"
    assert answer["outcome"] == "timed_out"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()


async def plain_coroutine(completions):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0.01)
    return [2.0]


async def blocks(completions):  # type: ignore[no-untyped-def]
    time.sleep(2)
    return [2.0]


def test_a_coroutine_function_is_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(rewards(RewardPool(), plain_coroutine)) as total:
        assert total([make("x")] * 3).parts == {"plain_coroutine": [2.0] * 3}
    monkeypatch.setattr("steer_lightning.rewards.asynchronous.PATIENCE", 0.3)
    judge = AsyncReward(blocks, deadline=0.2)
    with pytest.raises(ConfigError, match="must not block its event loop"):
        judge([make("x")])
    time.sleep(2)
    judge.close()
    with pytest.raises(ConfigError, match="coroutine function"):
        AsyncReward(hostile.returns_two)
    with pytest.raises(ConfigError, match=r"AsyncReward\.retries = -1"):
        AsyncReward(blocks, retries=-1)
