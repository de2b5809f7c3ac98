"""The contents of the page about a sweep, as plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.report.compared import read_run
from steer_lightning.results.report.contents import task_of
from steer_lightning.results.report.files import Record, read_settings, setting
from steer_lightning.results.report.samples import evenly
from steer_lightning.results.report.series import MOST_POINTS
from steer_lightning.results.report.sweep_file import (
    LENGTH,
    NO_FIGURES,
    REWARD,
    figures_of,
    read_sweep,
)
from steer_lightning.system.run_files import REPORT, SWEEP, is_run

MOST_CURVES = 200
"""Largest number of curves in the picture; more could not be told apart, and would take long."""

ALL_POINTS = 40_000
"""Largest number of points of all curves together, unless each had fewer than `FEWEST_POINTS`."""

FEWEST_POINTS = 60

LAYERS = ("model.steering.init_args.layers", "model.steering.layers")


def read_swept(root: Path) -> Record:
    """Reads what a page shows about a sweep.

    Figures and curves are read from the folders of the runs; a run with a damaged file is named,
    and the others are shown.

    Args:
        root: Folder of the sweep, with its `sweep.json`.

    Raises:
        ConfigError: If there is no `sweep.json`, or it is damaged.
    """
    found = read_sweep(root)
    if found is None:
        raise ConfigError("sweep", str(root), rule=f"holds no {SWEEP}", why="It holds no sweep")
    entries, keys = found["experiments"], found["keys"]
    experiments = [_experiment(root, entry, list(keys)) for entry in entries]
    num_curves = _limit_curves(experiments)
    settings: Record = next((s for s in map(_settings_of(root), entries) if s), {})
    return {
        "sweep": root.absolute().name,
        "task": task_of(settings),
        "base": setting(settings, "model", "base"),
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "version": version("steer-lightning"),
        "last_step": max((x["steps"] or 0 for x in experiments), default=0),
        "num_curves": num_curves,
        "keys": [[key, str(label)] for key, label in keys.items()],
        "experiments": experiments,
        "layers": find_layers(entries),
        "grid": find_grid(found["options"].get("grid"), entries),
    }


def _settings_of(root: Path) -> Any:
    """Returns a function that reads the configuration of an experiment; {} if it can't be read."""

    def read(entry: Record) -> Record:
        try:
            return {} if entry["run"] is None else read_settings(root / entry["run"])
        except ConfigError:  # the experiment's own line names it
            return {}

    return read


def _experiment(root: Path, entry: Record, keys: Sequence[str]) -> Record:
    run = None if entry["run"] is None else root / entry["run"]
    row: Record = {
        **{key: entry[key] for key in ("name", "run", "status", "reason", *NO_FIGURES)},
        "has_report": run is not None and (run / REPORT).is_file(),
        "values": [_value(entry["settings"], key) for key in keys],
        "curve": None,
        "damage": None,
    }
    if run is None or not is_run(run):
        return row
    try:
        found = read_run(run, {}, (REWARD, LENGTH))
    except ConfigError as error:
        return {**row, "damage": str(error)}
    curve = found["curves"].get(REWARD)
    if curve and curve["x"]:
        row["curve"] = {"x": curve["x"], "y": curve.get("smooth", curve["y"])}
    return {**row, **figures_of(found)}


def _value(settings: Record, key: str) -> list[Any] | None:
    """Returns the text of a setting, and its number if it is one; None if it is not set."""
    if key not in settings:
        return None
    value = settings[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [_text(value), float(value) if is_number else None]


def _limit_curves(experiments: Sequence[Record]) -> int:
    """Keeps the curves of some experiments, evenly over their ranks, and some of their points.

    Returns:
        The number of experiments that had a curve.
    """
    ranked = sorted(
        (row for row in experiments if row["curve"]), key=lambda row: row["curve"]["y"][-1]
    )
    kept = [ranked[k] for k in evenly(range(len(ranked)), MOST_CURVES)]
    most = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(1, len(kept))))
    names = {row["name"] for row in kept}
    for row in ranked:
        curve = row["curve"]
        chosen = evenly(range(len(curve["x"])), most)
        row["curve"] = {
            "x": [curve["x"][k] for k in chosen],
            "y": [float(f"{curve['y'][k]:.4g}") for k in chosen],
        }
        if row["name"] not in names:
            row["curve"] = None
    return len(ranked)


def find_layers(entries: Sequence[Record]) -> list[list[int]]:
    """Finds the experiments that differ by the only layer that they steer.

    Returns:
        Pairs of a layer and the number of its experiment, by layer; empty if these are not at
        least two layers.
    """
    found: dict[int, int] = {}
    for number, entry in enumerate(entries):
        settings = entry["settings"]
        if len(settings) != 1 or next(iter(settings)) not in LAYERS:
            continue
        (value,) = settings.values()
        layers = value if isinstance(value, list) else [value]
        if len(layers) == 1 and type(layers[0]) is int:
            found[layers[0]] = number
    return [[layer, found[layer]] for layer in sorted(found)] if len(found) > 1 else []


def find_grid(grid: Any, entries: Sequence[Record]) -> Record | None:
    """Lays experiments out by two keys, if exactly two have several values.

    Experiments of earlier grids with the same keys are among those of a grid, and it may have gaps.
    Of experiments that were listed, those with the keys of the first one must be a full grid.

    Args:
        grid: Values by key, as the command named them; None if it listed experiments.
        entries: Experiments of the sweep.

    Returns:
        `keys` of rows and columns, their values as texts in `rows` and `columns`, and `cells`, the
        number of the experiment of each row and column, or None. The key with more values has the
        rows, since pages are higher than wide.
    """
    is_grid = isinstance(grid, dict)
    named: Record = grid if is_grid else entries[0]["settings"] if entries else {}
    inside = [k for k, entry in enumerate(entries) if entry["settings"].keys() == named.keys()]
    values = {key: _sorted([entries[k]["settings"][key] for k in inside]) for key in named}
    keys = [key for key in named if len(values[key]) > 1]
    if len(keys) != 2:
        return None
    down, across = sorted(keys, key=lambda key: -len(values[key]))
    cells = {tuple(_text(entries[k]["settings"][key]) for key in (down, across)): k for k in inside}
    size = len(values[down]) * len(values[across])
    if not is_grid and not len(inside) == len(cells) == size:
        return None
    return {
        "keys": [down, across],
        "rows": values[down],
        "columns": values[across],
        "cells": [[cells.get((row, column)) for column in values[across]] for row in values[down]],
    }


def _sorted(values: Sequence[Any]) -> list[str]:
    """Returns the texts of different values: numbers in ascending order, others as they come."""
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    return list(dict.fromkeys(map(_text, values)))


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # 1.0 and 1 are the same value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
