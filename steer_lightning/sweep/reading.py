"""Reads what a user has written about experiments: YAML of plain values, in files and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.printable import one_line
from steer_lightning.system.yaml_size import load_bounded

MOST_BYTES = 1_000_000
"""Largest size of a file of experiments, which is more than a thousand of them need."""

OF_THE_COMMAND = ("config", "ckpt_path", "print_config", "help", "trainer.default_root_dir")
"""Options that say what the command does, so that they are not settings of an experiment."""

GROUPS = ("model", "data", "trainer")
"""Groups of settings."""


def read_file(path: Path) -> str:
    """Returns the text of a file of experiments.

    Raises:
        ConfigError: If it can't be read, or is too large.
    """
    fix = "Name a YAML file with a list of experiments"
    if path.is_dir():
        raise ConfigError("experiments", str(path), rule="is a folder", fix=fix)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            rule = f"has {size:,} bytes, more than {MOST_BYTES:,}"
            raise ConfigError("experiments", str(path), rule=rule, fix="Run several sweeps")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError("experiments", str(path), rule="there is no such file") from error
    except OSError as error:
        rule = f"can't be read: {error.strerror}"
        raise ConfigError("experiments", str(path), rule=rule) from error
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8 text: byte {error.start + 1} can't be read"
        raise ConfigError("experiments", str(path), rule=rule, fix=fix) from error


def read_yaml(text: str) -> Any:
    """Reads YAML as the configuration is read, where 1e-3 is a number.

    Raises:
        ValueError: If it is not valid YAML, nested too deeply, or names a key twice; the message is
            the rule of a `ConfigError`.
    """
    try:
        value = load_bounded(text)
        root = yaml.compose(text, yaml.SafeLoader)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        told = one_line(getattr(error, "problem", None) or error)
        raise ValueError(f"is not valid YAML: {where}{told}") from error
    _refuse_repeated_keys(root)
    return value


def _refuse_repeated_keys(node: yaml.Node | None) -> None:
    """Raises a ValueError for a mapping in which a key stands twice; YAML would keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ValueError(
                    f"line {key.start_mark.line + 1}: names {one_line(key.value)} twice in one "
                    "mapping, of which only the last would count"
                )
            seen.add(str(key.value))
            _refuse_repeated_keys(value)


def check_setting(where: str, key: object, value: Any) -> None:
    """Checks a key and a value of an experiment before they become words of the command line.

    Args:
        where: Where the setting stands, such as `grid`.
        key: Key of the configuration.
        value: Its value.

    Raises:
        ConfigError: If it is not a setting of an experiment.
    """
    if not isinstance(key, str) or not key:
        fix = "Write a key of the configuration, such as seed_everything"
        raise ConfigError(where, UNKNOWN, rule=f"the key {one_line(key)} is not text", fix=fix)
    if key in OF_THE_COMMAND or key.endswith(".help"):
        raise ConfigError(
            f"{where}: {key}",
            UNKNOWN,
            rule="is not a setting of an experiment, but an option of the whole command",
            fix="Give it beside the experiments, or leave it out",
        )
    if key in GROUPS:
        raise ConfigError(
            f"{where}: {key}",
            UNKNOWN,
            rule="is a group of settings",
            why="Experiments differ in single settings, by which they are named",
            fix="Name the whole key of each, such as model.optimizer.init_args.lr",
        )
    told = _odd(value)
    if told is not None:
        raise ConfigError(
            f"{where}: {key}",
            UNKNOWN,
            rule=told,
            why="Values are text, numbers, true, false, null, lists and mappings from text",
            fix="Put text that looks like something else into quotes",
        )


def _odd(value: Any) -> str | None:
    """Says what in a value has no place in a configuration; None if all of it does."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"holds a mapping with the key {one_line(key)}, which is not text"
    elif not isinstance(value, list):
        plain = isinstance(value, str | int | float | None)
        return None if plain else f"holds {one_line(value)}, a {type(value).__name__}"
    inner = value.values() if isinstance(value, dict) else value
    return next((told for told in map(_odd, inner) if told is not None), None)
