"""The comparison of two runs' settings, by hand."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import linecache
import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.system.plain_settings import (
    DEPTH,
    check_same,
    describe,
    describe_all,
    flat,
    init_args,
)

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


class Private:
    def __init__(self, value: Any) -> None:
        self._value = value


def of_source(text: str, path: Path, name: str) -> Any:
    """Loads what a module of the user defines."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    linecache.checkcache()
    return describe_all(getattr(module, name))


def test_private_attributes_are_described_on_request() -> None:
    assert describe(Private(1)) == "Private"
    one = describe_all(Private([1, {"a": re.compile("a")}]))
    source = hashlib.sha256(inspect.getsource(Private).encode()).hexdigest()
    assert one == {
        "class": "Private",
        "source": source,
        "_value": [1, {"a": ["a", re.UNICODE]}],
    }
    assert describe_all(re.compile("a", re.IGNORECASE)) != describe_all(re.compile("a"))
    assert describe_all(Private({"b", "a"})) == describe_all(Private({"a", "b"}))
    assert "0x" not in str(describe_all(Private(object())))
    assert describe_all(partial(max, key=len)) == ["max", [], {"key": "len"}]
    assert describe_all(Path("a")) != describe_all(Path("b"))
    long = [re.compile("a" * 300 + end) for end in "xy"]
    assert describe_all(long[0]) != describe_all(long[1])
    log = describe_all(Private(logging.getLogger("mine")))["_value"]
    logging.getLogger("mine.other")
    assert describe_all(logging.getLogger("mine")) == log == "<Logger mine (WARNING)>"
    assert "<module 'math'" in describe_all(math)
    loop = Private(None)
    loop._value = loop
    assert str(describe_all(loop)).count("class") == DEPTH, "it ends"


def test_code_of_the_user_is_described_by_its_source(tmp_path: Path) -> None:
    made = [
        of_source(f"def mine(x):\n    return {value}\n", tmp_path / f"{name}.py", "mine")
        for name, value in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert (made[0]["name"], made[2]["name"]) == ("mine", "mine")
    assert describe_all(describe_all) == "describe_all", "this package has versions"
    assert describe_all(len) == "len"

    def keeping(value: int) -> Any:
        return lambda: value

    assert describe_all(keeping(1))["closure"] == [1]


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
