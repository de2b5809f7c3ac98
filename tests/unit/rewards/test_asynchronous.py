"""Collecting the answers of many calls takes time in proportion to their number."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import pytest

from steer_lightning.rewards import AsyncReward
from steer_lightning.rollout import completion_of
from steer_lightning.types import Completion, Problem

COUNT = 64


async def judge(completions: Sequence[Completion]) -> list[float]:
    (number,) = (int(completion.text) for completion in completions)
    await asyncio.sleep(0.005 * number)  # one answer after the other
    return [float(number)]


def test_each_call_is_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    wait = concurrent.futures.wait

    def counted(futures: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal looks
        futures = list(futures)
        looks += len(futures)
        return wait(futures, *args, **kwargs)

    monkeypatch.setattr(concurrent.futures, "wait", counted)
    problem = Problem(question="", answer="")
    completions = [completion_of(problem, str(n), 1, True) for n in range(COUNT)]
    with closing(AsyncReward(judge, max_concurrency=COUNT)) as reward:
        assert reward(completions) == list(range(COUNT))
    assert looks <= 2 * COUNT
