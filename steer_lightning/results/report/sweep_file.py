"""The file `sweep.json`, which lists the experiments of a sweep with their figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.report.compared import read_run
from steer_lightning.results.report.files import Record, read_record
from steer_lightning.results.report.series import SMOOTHING
from steer_lightning.system.run_files import SUMMARY, SWEEP, is_locked, is_run

FORMAT = 1
"""Version of the format; a file of another version is refused."""

WAITING, TRAINING, ENDED = "waiting", "training", "ended"
FAILED, STOPPED = "failed", "stopped"

REWARD, LENGTH = "reward/mean", "completion/length_mean"

NO_FIGURES: Record = {
    **{"steps": None, "reward_start": None, "reward_end": None, "completion_length": None},
    "benchmarks": {},
}
"""Figures of an experiment that has not trained."""

HEAD: dict[str, type | tuple[type, ...]] = {
    **{"format": int, "options": dict, "keys": dict, "experiments": list},
}
ENTRY: dict[str, type | tuple[type, ...]] = {
    **{"name": str, "settings": dict, "run": (str, type(None)), "status": str},
    **{"reason": (str, type(None)), "benchmarks": dict},
}


def read_sweep(root: Path) -> Record | None:
    """Reads the `sweep.json` of a folder; returns None if there is none.

    Experiments that were under way, and whose process has died since, are `stopped`, or `ended` if
    they have written their summary.

    Raises:
        ConfigError: If the file is damaged, has another format, or is not of a sweep.
    """
    path = root / SWEEP
    try:
        found = read_record(path, HEAD)
    except ConfigError as error:
        raise _unreadable(path, error.rule, error.why) from error
    except OSError as error:
        raise _unreadable(path, "can't be read", str(error.strerror)) from error
    if found is None:
        return None
    if found["format"] != FORMAT:
        rule = f"has format {found['format']}, and this version reads format {FORMAT}"
        raise _unreadable(path, rule, "Another version of steer-lightning wrote it")
    statuses = (WAITING, TRAINING, ENDED, FAILED, STOPPED)
    for number, entry in enumerate(found["experiments"], 1):
        right = isinstance(entry, dict) and all(
            isinstance(entry.get(key, ...), kinds) for key, kinds in ENTRY.items()
        )
        if not (right and entry["status"] in statuses):
            why = f"Its experiment {number} is not one that a sweep lists"
            raise _unreadable(path, "is damaged", why)
    found["experiments"] = [
        {**NO_FIGURES, **entry, **_now(root, entry)} for entry in found["experiments"]
    ]
    return found


def _unreadable(path: Path, rule: str, why: str) -> ConfigError:
    return ConfigError(
        "sweep",
        str(path),
        rule=rule,
        why=why,
        fix="Restore it, or move it out of the folder: a sweep then lists the experiments of its "
        "command, and trains none again that has ended",
    )


def _now(root: Path, entry: Record) -> Record:
    """Returns what has changed about an experiment since its process died."""
    if entry["status"] not in (WAITING, TRAINING):
        return {}
    run = None if entry["run"] is None else root / entry["run"]
    if run is None or not run.is_dir():
        return {"status": STOPPED, "run": None}
    if is_locked(run):
        return {}
    return {"status": ENDED if (run / SUMMARY).exists() else STOPPED}


def sweep_text(head: Record, lines: Sequence[str]) -> str:
    """Returns the text of a `sweep.json`, with an experiment on each line.

    Args:
        head: What comes before the experiments.
        lines: Experiments, as `entry_line` writes them.
    """
    first = "".join(f"  {json.dumps(key)}: {entry_line(head[key])},\n" for key in head)
    every = ",\n".join(f"    {line}" for line in lines)
    return f'{{\n{first}  "experiments": [\n{every}\n  ]\n}}\n'


def entry_line(value: Any) -> str:
    """Returns a value as JSON on one line; numbers that are not finite become null."""
    return json.dumps(_finite(value), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_figures(run: Path) -> Record:
    """Reads the figures of an experiment from the folder of its run.

    Returns:
        The keys of `NO_FIGURES`, with `before` and `after` for each benchmark.

    Raises:
        ConfigError: If a file of the run is damaged.
    """
    if not is_run(run):
        return dict(NO_FIGURES)
    return figures_of(read_run(run, {}, (REWARD, LENGTH)))


def figures_of(found: Record) -> Record:
    """Returns the figures of an experiment.

    Args:
        found: What `read_run` has read of its run, with the curves `REWARD` and `LENGTH`.
    """
    reward, length = (found["curves"].get(name) for name in (REWARD, LENGTH))
    return {
        "steps": found["last_step"],
        "reward_start": _first(reward),
        "reward_end": last_of(reward),
        "completion_length": last_of(length),
        "benchmarks": {
            row["name"]: {when: row[when] for when in ("before", "after")}
            for row in found["benchmarks"]
        },
    }


def _first(curve: Record | None) -> float | None:
    """Returns the mean of a curve's first steps."""
    if not (curve and curve["y"]):
        return None
    values = curve["y"][: SMOOTHING if "smooth" in curve else 1]
    return float(f"{sum(values) / len(values):.6g}")


def last_of(curve: Record | None) -> float | None:
    """Returns the mean of a curve's last steps, as a run's page shows it."""
    if not (curve and curve["y"]):
        return None
    values: list[float] = curve["smooth" if "smooth" in curve else "y"]
    return values[-1]
