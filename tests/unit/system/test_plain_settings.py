"""The comparison of two runs' settings, by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.system.plain_settings import check_same, describe, flat

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
