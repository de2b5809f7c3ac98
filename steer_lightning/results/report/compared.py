"""The contents of a page that compares several runs, as plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any

from steer_lightning.results.report.contents import benchmarks_of, run_name, task_of
from steer_lightning.results.report.files import (
    Record,
    find_stages,
    read_record,
    read_settings,
    setting,
)
from steer_lightning.results.report.series import as_curve, clock_of, joined, read_series
from steer_lightning.system.plain_settings import flat
from steer_lightning.system.run_files import METRICS, SUMMARY

MOST_RUNS = 20
"""Largest number of runs on a page; more colours and columns could not be told apart."""

CURVES = (
    "reward/mean",
    "completion/length_mean",
    "completion/cut_off_share",
    "reward/no_signal_share",
    "completion/entropy",
    "vectors/norm_mean",
    "vectors/size_in_stream",
    "update/gradient_norm",
)
"""Metrics whose curves are drawn together."""

PLACES = ("ckpt_path", "trainer.default_root_dir")
"""Settings that only say where the files of a run are."""

ABSENT = "\u2013"


def read_comparison(folders: Sequence[Path]) -> Record:
    """Reads what a page shows about several runs.

    Args:
        folders: Folders of the runs, in the order in which they are shown.

    Raises:
        ConfigError: If a file in a folder is damaged.
    """
    settings = [read_settings(folder) for folder in folders]
    every = [read_run(folder, found) for folder, found in zip(folders, settings, strict=True)]
    for run, name in zip(every, _names(folders), strict=True):
        run["name"] = name
    return {
        "runs": every,
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "version": version("steer-lightning"),
        "last_step": max((run["last_step"] or 0 for run in every), default=0),
        "differences": differences([flat(found) for found in settings]),
        "unknown": [run["name"] for run, found in zip(every, settings, strict=True) if not found],
    }


def read_run(folder: Path, settings: Record, names: Sequence[str] = CURVES) -> Record:
    """Reads what a page shows about one of several runs.

    Args:
        folder: Folder of the run.
        settings: Its configuration.
        names: Metrics whose curves are wanted.

    Raises:
        ConfigError: If a file in the folder is damaged.
    """
    stages = find_stages(folder)
    series = joined([read_series(s) if (s / METRICS).exists() else {} for s in stages])
    summary = read_record(folder / SUMMARY, {"versions": dict})
    return {
        "stages": [stage.name for stage in stages],
        "task": task_of(settings),
        "base": (summary or {}).get("base_model") or setting(settings, "model", "base"),
        "last_step": max((points[-1][0] for points in series.values()), default=None),
        "max_steps": setting(settings, "trainer", "max_steps"),
        "summary": summary,
        "clock": clock_of(series),
        "benchmarks": benchmarks_of(series, summary or {}),
        "curves": {name: as_curve(series[name]) for name in names if name in series},
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the shortest names that distinguish the runs."""
    names = [folder.absolute().name for folder in folders]
    return names if len(set(names)) == len(names) else [run_name(folder) for folder in folders]


def differences(every: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Returns the settings that are not the same in all runs: the key, and the value in each run.

    Args:
        every: Settings of each run, by key. A run without a configuration has only the key ""; it
            makes no difference, and its values are shown as absent.
    """
    keys = dict.fromkeys(key for settings in every for key in settings if key not in ("", *PLACES))
    rows = [[key, *(_shown(settings, key) for settings in every)] for key in keys]
    known = [set(settings) != {""} for settings in every]
    return [row for row in rows if len(set(compress(row[1:], known))) > 1]


def _shown(settings: dict[str, Any], key: str) -> str:
    if key not in settings:
        return ABSENT
    value = settings[key]
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return value if isinstance(value, str) and not _reads_as_another(value) else shown


def _reads_as_another(text: str) -> bool:
    """Tells whether a text, without its quotes, reads as a number, null or another JSON value."""
    try:
        json.loads(text)
    except ValueError:
        return text == ABSENT
    return True


def without_earlier_stages(folders: Sequence[Path]) -> list[Path]:
    """Leaves out runs that another run in the list resumes, and whose steps it shows as its own."""
    earlier = {stage for folder in folders for stage in find_stages(folder)[:-1]}
    return [folder for folder in folders if folder.absolute() not in earlier]
