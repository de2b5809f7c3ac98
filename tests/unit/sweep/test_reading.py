"""What a user may write about experiments, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.sweep.reading import MOST_BYTES, check_setting, read_file, read_yaml


def test_numbers_are_those_of_the_configuration() -> None:
    assert read_yaml("[1e-3, 0.02, 5, all, '1']") == [0.001, 0.02, 5, "all", "1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1", "is not valid YAML: line "),
        ("- a: 1\n- {b: 1, b: 2}", "line 2: names b twice in one mapping"),
        ("- {a: {c: [{d: 1, d: 2}]}}", "line 1: names d twice"),
        ("[" * 2000, "nest"),
        ("- &a {x: *a}", "unfolds into more than 100,000 values"),
        ("!!python/name:os.system x", "is not valid YAML: line 1"),
    ],
)
def test_what_yaml_would_pass_over_or_fail_at_is_named(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_yaml(text)


def test_the_same_key_in_two_mappings_is_no_repetition() -> None:
    assert read_yaml("- {a: 1}\n- {a: 1, b: {a: 1}}") == [{"a": 1}, {"a": 1, "b": {"a": 1}}]


def test_files_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    with pytest.raises(ConfigError, match=r"sweep\.yaml': there is no such file"):
        read_file(path)
    with pytest.raises(ConfigError, match="is a folder"):
        read_file(tmp_path)
    path.write_bytes(b"- {name: \xff}")
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 10 can't be read"):
        read_file(path)
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="has 1,000,001 bytes, more than 1,000,000"):
        read_file(path)
    path.write_bytes("\ufeff- größe".encode())
    assert read_file(path) == "- größe", "without the mark that editors on Windows put first"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (1, 2, "grid: the key 1 is not text"),
        ("", 2, "grid: the key  is not text"),
        ("config", "a.yaml", "grid: config: is not a setting of an experiment"),
        ("trainer.default_root_dir", "a", "is not a setting of an experiment"),
        ("model.steering.help", 1, "is not a setting of an experiment"),
        ("model", 1, "grid: model: is a group of settings"),
        ("a.b", [{"c": {1: 2}}], "grid: a.b: holds a mapping with the key 1, which is not text"),
        ("a.b", [b"x"], "grid: a.b: holds b'x', a bytes"),
        ("a.b", {"c": {0}}, "grid: a.b: holds {0}, a set"),
    ],
)
def test_what_is_no_setting_is_refused(key: Any, value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_setting("grid", key, value)


def test_settings_are_plain_values() -> None:
    plain = [1, 2.5, True, None, "x", {"c": [float("inf")]}]
    check_setting("grid", "a.b", plain)
    with pytest.raises(ConfigError, match="a tuple"):
        check_setting("grid", "a.b", [*plain, ()])
