"""Prompts that data modules with the same settings have in common."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from steer_lightning.data.shared_prompts import BySplit, SharedPrompts
from steer_lightning.testing import make_prompts

PROMPTS = make_prompts(["1+1", "2+2"])


def fill(shared: SharedPrompts, key: str, also: Callable[[], object] = list) -> tuple[BySplit, int]:
    """Fills a module's prompts; returns them, and the number of times that they were made."""
    own: BySplit = {}
    calls = []

    def load() -> None:
        calls.append(1)
        also()
        own["train"] = list(PROMPTS)

    shared.fill(key, own, load)
    return own, len(calls)


def test_prompts_are_made_once_for_each_key() -> None:
    shared = SharedPrompts()
    first, made = fill(shared, "a")
    assert made == 1
    second, made = fill(shared, "a")
    assert made == 0
    assert second == {"train": PROMPTS}
    assert second is not first, "each module may change its own"
    assert second["train"][0] is first["train"][0], "the prompts themselves lie in memory once"
    assert fill(shared, "b")[1] == 1


def test_messages_are_repeated(caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedPrompts()
    log = logging.getLogger("steer_lightning.data.prompts")
    for _ in range(3):
        fill(shared, "a", lambda: log.warning("dropped %d prompts", 2))
    assert caplog.messages == ["dropped 2 prompts"] * 3
    assert not any(
        type(x) is logging.Handler for x in logging.getLogger("steer_lightning").handlers
    )


@pytest.mark.parametrize(
    "draw", [random.random, np.random.rand, lambda: torch.rand(1)], ids=["python", "numpy", "torch"]
)
def test_a_source_that_draws_is_not_shared(draw: Callable[[], object]) -> None:
    shared = SharedPrompts()
    assert [fill(shared, "a", draw)[1] for _ in range(2)] == [1, 1]


def test_a_failure_is_not_kept() -> None:
    shared = SharedPrompts()

    def fail() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fill(shared, "a", fail)
    assert fill(shared, "a")[1] == 1
