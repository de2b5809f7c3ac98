"""Errors of constructors get the keys under which their settings stand."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning.cli.full_keys import with_whole_key
from steer_lightning.errors import UNKNOWN, ConfigError

CONFIG: dict[str, Any] = {
    "first": [{"class_path": "d.Records", "init_args": {"path": "none"}}],
    "seed": 0,
    "model": {
        "sampling": {"group_size": 8, "stop": ("a",)},
        "eval_sampling": {"group_size": -4, "stop": ["b"]},
        "steering": {"class_path": "s.SteeringVectors", "init_args": {"layers": "7-9"}},
        "rewards": [{"reward": {"class_path": "r.Format", "init_args": {"pattern": "("}}}],
    },
    "data": {
        "train": {"class_path": "d.Records", "init_args": {"path": "none", "limit": 0}},
        "val": {"class_path": "d.Other", "init_args": {"path": "none", "limit": 0}},
    },
    "callbacks": [
        {"class_path": "c.Guard", "init_args": {"max_skipped": 0, "sampling": {"group_size": 0}}}
    ],
}


@pytest.mark.parametrize(
    ("key", "value", "whole"),
    [
        ("sampling.group_size", -4, "model.eval_sampling.group_size"),  # found by its value
        ("sampling.group_size", 8, "model.sampling.group_size"),
        ("sampling.group_size", 0, "callbacks.0.init_args.sampling.group_size"),
        ("sampling.group_size", 5, "sampling.group_size"),  # nothing has this value
        ("sampling.group_size", 8.0, "sampling.group_size"),
        ("sampling.stop", ["a"], "model.sampling.stop"),
        ("Records.path", "none", "data.train.init_args.path"),
        ("Other.path", "none", "data.val.init_args.path"),  # of two, by its class
        ("limit", 0, "data.train.init_args.limit"),
        ("limit", UNKNOWN, "data.train.init_args.limit"),
        ("layers", "7-9", "model.steering.init_args.layers"),
        ("model.steering.layers", "7-9", "model.steering.layers"),  # as it may be typed
        ("data.template.init_args.path", "none", "data.train.init_args.path"),
        ("pattern", "(", "model.rewards.0.reward.init_args.pattern"),
        ("Format.pattern", "(", "Format.pattern"),  # clearer than a number in a list
        ("Guard.max_skipped", 0, "Guard.max_skipped"),
        ("nothing", 0, "nothing"),
    ],
)
def test_a_setting_is_found_by_its_name_value_and_class(key: str, value: Any, whole: str) -> None:
    found = with_whole_key(ConfigError(key, value, rule="is wrong", fix="Mend it"), CONFIG)
    assert (found.key, found.value, found.rule) == (whole, value, "is wrong")
    assert found.fix == "Mend it"
