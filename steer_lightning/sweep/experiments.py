"""The experiments of a sweep: settings by which they differ, and their names."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.sweep.reading import check_setting, read_file, read_yaml
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import SWEEP, SWEEP_PAGE

MOST = 1000
"""Largest number of experiments in a sweep."""

MOST_BYTES_OF_A_NAME = 200
"""Largest number of bytes of a name; file systems allow 255."""

LONGEST_NAME = 100
"""Largest number of characters of a name that is made from settings."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run of a sweep."""

    name: str
    """Name of the run, and of its folder."""
    settings: dict[str, Any]
    """Values by configuration key that replace those of the configuration."""


def from_grid(axes: Mapping[str, Sequence[Any]]) -> list[Experiment]:
    """Makes one experiment for each combination of values.

    An experiment is named by its own values of all keys, also of those with a single value. So it
    keeps its name, and is not trained again, when the grid gets further values.

    Args:
        axes: Values to try, by configuration key.

    Raises:
        ConfigError: If there are no values, too many combinations, or two that are the same.
    """
    count = 1
    for key, values in axes.items():
        if not values:
            fix = f"Write for instance {key}=[VALUE,VALUE], or leave the grid out"
            raise ConfigError(f"grid {key}", "[]", rule="has no values", fix=fix)
        count *= len(values)
    if count > MOST:
        sizes = " x ".join(str(len(values)) for values in axes.values())
        raise ConfigError(
            "grid",
            sizes,
            rule=f"makes {count} experiments, more than {MOST}",
            fix="Leave out values, or run several sweeps",
        )
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return named([(None, row) for row in rows], _short_keys(list(axes)))


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Reads an axis of a grid, such as `model.optimizer.init_args.lr=[0.005,0.02]`.

    Raises:
        ConfigError: If it has another form.
    """
    key, equals, values = text.partition("=")
    found, reason = None, ""
    try:
        found = read_yaml(values)
    except ValueError as error:
        reason = f": the list {error}"
    if not (key and equals and isinstance(found, list)):
        raise ConfigError(
            "grid",
            text,
            rule=f"must be KEY=[VALUE,VALUE,...]{reason}",
            fix='Write for instance --grid "model.optimizer.init_args.lr=[0.005,0.02]"',
        )
    for value in found:
        check_setting("grid", key, value)
    return key, found


def from_file(path: Path) -> list[Experiment]:
    """Reads a list of experiments: mappings of configuration keys to values, with or without names.

    Raises:
        ConfigError: If the file can't be read or has another form.
    """
    text = read_file(path)
    try:
        rows = read_yaml(text)
    except ValueError as error:
        raise ConfigError("experiments", str(path), rule=str(error)) from error
    form = "must be a list of mappings, such as - {name: slow, model.optimizer.init_args.lr: 0.005}"
    if not (isinstance(rows, list) and rows):
        raise ConfigError("experiments", str(path), rule=form)
    if len(rows) > MOST:
        raise ConfigError(
            "experiments",
            str(path),
            rule=f"has {len(rows)} experiments, more than {MOST}",
            fix="Run several sweeps",
        )
    pairs: list[tuple[str | None, dict[str, Any]]] = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, item {number}"
        if not isinstance(row, dict):
            raise ConfigError("experiments", where, rule=form)
        name = row.pop("name", None)
        if not isinstance(name, str | None):
            fix = f'Put it into quotes: name: "{one_line(name)}"'
            raise ConfigError("experiments", where, rule="has a name that is not text", fix=fix)
        if not row:
            raise ConfigError("experiments", where, rule="has no setting", why=f"It {form}")
        for key, value in row.items():
            check_setting(f"experiments: {one_line(where)}", key, value)
        pairs.append((name, row))
    return named(pairs)


def each_layer(num_layers: int) -> list[Experiment]:
    """Makes one experiment for each decoder layer, which steers that layer alone."""
    digits = len(str(num_layers - 1))
    return [
        Experiment(
            name=f"layer-{layer:0{digits}d}",
            settings={"model.steering.init_args.layers": [layer]},
        )
        for layer in range(num_layers)
    ]


def named(
    rows: Sequence[tuple[str | None, dict[str, Any]]], short: Mapping[str, str] | None = None
) -> list[Experiment]:
    """Names experiments by their settings.

    Args:
        rows: Name, or None, and settings of each experiment.
        short: Keys of which names are made, with their short forms; by default those in which the
            experiments differ.

    Raises:
        ConfigError: If two experiments have the same settings or the same name, or a name is not
            one of a folder.
    """
    _refuse_doubles(rows)
    short = differing_keys([settings for _, settings in rows]) if short is None else short
    found = []
    for name, settings in rows:
        parts = [f"{end}={_value(settings[key])}" for key, end in short.items() if key in settings]
        found.append(
            Experiment(name=name or "_".join(parts)[:LONGEST_NAME] or "plain", settings=settings)
        )
    for name, count in Counter(experiment.name for experiment in found).items():
        if count > 1:
            raise ConfigError(
                "experiments",
                name,
                rule=f"is the name of {count} experiments",
                fix="Name them in a file of experiments",
            )
        _check_name(name)
    return found


def _check_name(name: str) -> None:
    """Raises a ConfigError for a name that can't become a folder."""
    if len(name.encode()) > MOST_BYTES_OF_A_NAME:
        raise ConfigError(
            "experiments",
            name,
            rule=f"is longer than {MOST_BYTES_OF_A_NAME} bytes",
            why="The name becomes a folder",
        )
    if re.fullmatch(r"run-\d+", name) or name in (SWEEP, SWEEP_PAGE):
        raise ConfigError(
            "experiments",
            name,
            rule="is a name that the sweep or fit itself gives to files or runs",
            fix="Choose another name",
        )
    if re.fullmatch(r"[\w.+,=-]+", name) is None or name.startswith("."):
        raise ConfigError(
            "experiments",
            name,
            rule="must consist of letters, digits and any of . + , = _ -",
            why="The name becomes a folder",
        )


def differing_keys(every: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Finds the keys whose values are not the same in all experiments.

    Args:
        every: Settings of each experiment.

    Returns:
        The shortest ends of these keys that tell all keys apart, by key.
    """
    keys = list(dict.fromkeys(key for settings in every for key in settings))
    short = _short_keys(keys)
    values = {key: {_as_text(found.get(key, UNKNOWN)) for found in every} for key in keys}
    return {key: short[key] for key in keys if len(values[key]) > 1}


def _refuse_doubles(rows: Sequence[tuple[str | None, dict[str, Any]]]) -> None:
    seen: dict[str, int] = {}
    for number, (_, settings) in enumerate(rows, 1):
        text = _as_text(settings)
        if text in seen:
            raise ConfigError(
                "experiments",
                f"{seen[text]} and {number}",
                rule=f"are the same: {text}",
                fix="Leave one of them out",
            )
        seen[text] = number


def _as_text(value: Any) -> str:
    """Returns a value as text that is the same for equal values, such as 1 and 1.0."""
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Returns the shortest ends of dotted keys that tell them apart."""
    short = {}
    for key in keys:
        parts = [part for part in key.split(".") if part != "init_args"]
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            others = (".".join(p for p in other.split(".") if p != "init_args") for other in keys)
            if sum(other == end or other.endswith(f".{end}") for other in others) == 1:
                break
        short[key] = end
    return short


def _value(value: Any) -> str:
    """Returns a value as a part of a folder's name."""
    if isinstance(value, list):
        return "+".join(map(_value, value))
    if isinstance(value, int | float):
        return str(value)  # with its minus
    if isinstance(value, dict):
        value = value.get("class_path", _as_text(value))
    text = str(value)
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text):
        text = text.rpartition(".")[2]  # a class
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "empty"
