"""The comparison of two runs' settings, by hand."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.system.plain_settings import check_same, describe, flat, init_args

TOLD = {"told": "the other one has", "why": "Both are one run", "fix": "Set it back"}


@pytest.mark.parametrize(
    ("saved", "now"),
    [
        ({"a": (0.9, 0.99)}, {"a": [0.9, 0.99]}),
        ({"a": [1, (2, (3,))]}, {"a": (1, [2, [3]])}),
        ({"a": {"b": [(1,)]}}, {"a": {"b": [[1]]}}),
        ({}, {"a": None}),
        ({"only saved": 1}, {}),
    ],
)
def test_equal_settings(saved: dict[str, Any], now: dict[str, Any]) -> None:
    assert check_same(saved, now, **TOLD) is None


@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        ({"b": 2, "a": 1}, {"b": 3, "a": 4}, "b = 3: the other one has 2."),
        ({}, {"a": 0}, "a = 0: the other one has None."),
        ({"a": (1, (2,))}, {"a": [1, [3]]}, "a = [1, [3]]: the other one has (1, (2,))."),
        ({"a": "1"}, {"a": 1}, "a = 1: the other one has '1'."),
    ],
)
def test_the_first_setting_that_differs_is_told(
    saved: dict[str, Any], now: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_same(saved, now, **TOLD)
    assert str(caught.value) == f"{message} Both are one run. Set it back."


def test_a_pattern_is_described_by_its_text() -> None:
    assert describe([re.compile("a+"), {"b": (1, re.compile("c"))}]) == ["a+", {"b": [1, "c"]}]


def test_settings_by_their_whole_keys() -> None:
    settings = {"model": {"optimizer": {"init_args": {"lr": 0.1}}, "loss": {}}, "seed": [1]}
    assert flat(settings) == {"model.optimizer.init_args.lr": 0.1, "model.loss": {}, "seed": [1]}
    assert flat({}) == {"": {}}


def test_mappings_in_lists_are_settings_of_their_own_on_request() -> None:
    settings = {"a": [{"b": {"c": 1}}, 2], "d": [[1]], "e": []}
    assert flat(settings) == settings
    assert flat(settings, "t", lists=True) == {"t.a.0.b.c": 1, "t.a.1": 2, "t.d": [[1]], "t.e": []}


class Clock:
    def __init__(self, hours: int) -> None:
        self.hours, self.ticks = hours, 0


class Judge(Clock):
    def __init__(self, clock: Clock, names: tuple[str, ...], **more: int) -> None:
        super().__init__(**more)
        self.clock, self.names, self._names = clock, names, len(names)


def test_settings_of_a_plug_in_are_the_arguments_that_it_keeps() -> None:
    clock = {"class": "Clock", "hours": 24}  # not how often it has ticked
    assert init_args(Judge(Clock(24), ("a", "b"), hours=12)) == {
        "clock": clock,
        "hours": 12,
        "names": ["a", "b"],
    }
    inner = Judge(Clock(24), (), hours=12)
    outer = Judge(inner, (), hours=1)
    assert init_args(outer)["clock"] == {
        "class": "Judge",
        "clock": "Clock",  # the second level is only named
        "hours": 12,
        "names": [],
    }
    assert init_args(len) == init_args(lambda: 0) == init_args(partial(max, 0)) == {}
