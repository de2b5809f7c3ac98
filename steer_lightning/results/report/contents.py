"""The contents of a run's page as plain data, read only from the run's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from steer_lightning.results.report.answers import read_answers
from steer_lightning.results.report.budget import budget_curves
from steer_lightning.results.report.damage import damaged
from steer_lightning.results.report.files import (
    Record,
    find_stages,
    read_lens,
    read_looks,
    read_record,
    read_settings,
    read_text,
    setting,
)
from steer_lightning.results.report.samples import evenly, read_training
from steer_lightning.results.report.series import (
    Series,
    as_curve,
    clock_of,
    first_step,
    joined,
    read_series,
)
from steer_lightning.system.run_files import CONFIG, EVALUATION, METRICS, RESULTS, SUMMARY

MOST_LOOKS = 200
"""Largest number of lens results from training that a page shows."""
BENCHMARK = re.compile(r"benchmark/(.+?)(?:/arms/([\w.-]+))?/(\w+)")
"""Metric of a benchmark: its name, the name of the arm if it is not the trained vectors, and what
was measured."""
ELSEWHERE = re.compile(r"benchmark/.+|lens/\w+/layer_\d+")
"""Metrics that have their own place on the page, and are not among its curves."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "Base": ("model", "base"),
    "Precision of the base": ("model", "dtype"),
    "What is trained": ("model", "steering"),
    "Steered layers": ("model", "steering", "layers"),
    "Unit of the vectors": ("model", "steering", "scale"),
    "Training data": ("data", "train"),
    "Prompts per step": ("data", "batch_size"),
    "Completions per prompt": ("model", "sampling", "group_size"),
    "Temperature": ("model", "sampling", "temperature"),
    "Tokens per completion, at most": ("model", "sampling", "max_new_tokens"),
    "Rewards": ("model", "rewards"),
    "Advantage": ("model", "advantage"),
    "Loss": ("model", "loss"),
    "Optimizer": ("model", "optimizer"),
    "Learning rate": ("model", "optimizer", "lr"),
    "Schedule": ("model", "schedule", "kind"),
    "Steps, at most": ("trainer", "max_steps"),
    "Seed": ("seed_everything",),
}


def read_contents(folder: Path, num_steps: int, num_prompts: int) -> Record:
    """Reads everything that a page shows about a run.

    Entries for files that an interrupted run has not written are None or empty.

    Args:
        folder: Folder of the run.
        num_steps: Number of steps whose completions are shown.
        num_prompts: Number of prompts shown per step, and of problems per benchmark.

    Raises:
        ConfigError: If a file in the folder is damaged.
    """
    stages = find_stages(folder)
    every = [read_series(stage) if (stage / METRICS).exists() else {} for stage in stages]
    series = joined(every)
    starts = [first_step(stage) for stage in every[1:]] + [float("inf")]
    settings = read_settings(folder)
    summary = read_record(folder / SUMMARY, {"versions": dict})
    curves = {name: points for name, points in series.items() if not ELSEWHERE.fullmatch(name)}
    return {
        "run": run_name(folder),
        "task": task_of(settings),
        "stages": [stage.name for stage in stages],
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "version": version("steer-lightning"),
        "base": (summary or {}).get("base_model") or setting(settings, "model", "base"),
        "last_step": max((points[-1][0] for points in series.values()), default=None),
        "max_steps": setting(settings, "trainer", "max_steps"),
        "summary": summary,
        "clock": clock_of(series),
        "benchmarks": benchmarks_of(series, summary or {}),
        "curves": {name: as_curve(points) for name, points in curves.items()},
        "evaluation": _evaluation(folder),
        "capability": _capability(folder),
        "strata": _evaluation(folder, "strata") or [],
        "side_effects": _side_effects(folder),
        "budgets": _budgets(folder),
        "refinements": _refinements(folder),
        "lens": read_lens(folder),
        "looks": _some(read_looks(stages)),
        "training": read_training(list(zip(stages, starts, strict=True)), num_steps, num_prompts),
        "answers": read_answers(folder / EVALUATION, num_prompts),
        "settings": _shown(settings),
        "config": read_text(folder / CONFIG),
    }


def run_name(folder: Path) -> str:
    """Returns the name of a run together with that of the folder of its runs."""
    return f"{folder.absolute().parent.name}/{folder.absolute().name}"


def task_of(settings: Record) -> str | None:
    """Returns what a run was trained on: the name of a file, hub data set, or class."""
    source = setting(settings, "data", "train")
    path, name = (setting(source, key) for key in ("path", "hub_name"))
    if isinstance(path, str):
        return PurePath(path).name.partition(".")[0] or None
    named = name if isinstance(name, str) else _short(source)
    return named if isinstance(named, str) else None


def benchmarks_of(series: Series, summary: Mapping[str, Any]) -> list[Record]:
    """Returns the figures of each benchmark by step, from the summary if there are no metrics."""
    found: dict[str, Record] = {}
    for name, points in series.items():
        match = BENCHMARK.fullmatch(name)
        if match:
            row = found.setdefault(match[1], {})
            if match[2] is not None:
                row = row.setdefault("arms", {}).setdefault(match[2], {})
            row[match[3]] = points
    rows = []
    for name in dict.fromkeys([*found, *(summary.get("accuracy_after") or {})]):
        row = {"name": name, **found.get(name, {})}
        for when in ("before", "after"):
            row[when] = _figure(name, when, row.get("accuracy", []), row, summary)
        rows.append(row)
    return rows


def _figure(
    name: str, when: str, points: Sequence[Any], row: Record, summary: Mapping[str, Any]
) -> Record | None:
    """Returns the accuracy before the first step, or the latest one, with its interval."""
    wanted = [point for point in points if when == "after" or point[0] == 0]
    if wanted:
        step, value = wanted[-1]
        low, high = (dict(row.get(f"accuracy_{side}", [])).get(step) for side in ("low", "high"))
        return {"step": step, "value": value, "low": low, "high": high}
    value = (summary.get(f"accuracy_{when}") or {}).get(name)
    if value is None:
        return None
    low, high = (summary.get(f"interval_{when}") or {}).get(name) or (None, None)
    return {"step": 0 if when == "before" else None, "value": value, "low": low, "high": high}


def _evaluation(folder: Path, part: str = "rows") -> list[Record] | None:
    """Reads the figures of `steer-lightning evaluate`, which are beside the vectors."""
    path = folder / EVALUATION / RESULTS
    found = read_record(path, {"rows": list})
    if found is None:
        return None
    rows: list[Record] = found.get(part) or []
    for row in rows:
        missing = {"benchmark", "arm", "metric", "value"} - set(row)
        if missing:
            raise damaged(path, f"A row lacks {', '.join(sorted(missing))}")
    return rows


def _capability(folder: Path) -> list[Record]:
    """Reads the curves of pass@k, which an evaluation with a single k does not have."""
    path = folder / EVALUATION / RESULTS
    found: list[Record] = (read_record(path, {"rows": list}) or {}).get("capability") or []
    for record in found:
        missing = {"benchmark", "arm", "num_samples", "points"} - set(record)
        if missing:
            raise damaged(path, f"A record of capability lacks {', '.join(sorted(missing))}")
    return found


def _side_effects(folder: Path) -> Record | None:
    """Reads what `steer-lightning evaluate` has measured on neutral text."""
    path = folder / EVALUATION / RESULTS
    found: Record | None = (read_record(path, {"rows": list}) or {}).get("side_effects")
    if found is None:
        return None
    missing = {"text", "num_tokens", "num_windows", "base_knows_it", "rows"} - set(found)
    if missing:
        raise damaged(path, f"side_effects lacks {', '.join(sorted(missing))}")
    return found


def _budgets(folder: Path) -> Record:
    """Reads the curves of accuracy against tokens; empty without budgets."""
    path = folder / EVALUATION / RESULTS
    found = read_record(path, {"rows": list})
    try:
        return {} if found is None else budget_curves(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"budgets is not what `evaluate` writes: {error!r}") from error


def _refinements(folder: Path) -> list[Record]:
    """Reads what refined answers cost; empty without refinements."""
    path = folder / EVALUATION / RESULTS
    found: list[Record] = (read_record(path, {"rows": list}) or {}).get("refinements") or []
    for record in found:
        missing = {"benchmark", "arm", "cost", "num_plain", "value", "vote", "best"} - set(record)
        if missing:
            raise damaged(path, f"A record of refinements lacks {', '.join(sorted(missing))}")
    return found


def _some(looks: list[Record]) -> list[Record]:
    return [looks[k] for k in evenly(range(len(looks)), MOST_LOOKS)]


def _shown(settings: Record) -> list[list[Any]]:
    """Returns the most important settings by name, with classes without their modules."""
    rows = [[name, _short(setting(settings, *keys))] for name, keys in SETTINGS.items()]
    return [row for row in rows if row[1] is not None]


def _short(value: Any) -> Any:
    """Shortens a class or function to its name and a list to one line; other values stay."""
    if isinstance(value, list):
        return ", ".join(str(_short(item)) for item in value)
    if isinstance(value, dict):
        if "reward" in value:  # a reward is shown with its weight
            reward = value["reward"]
            name = reward.rsplit(".", 1)[-1] if isinstance(reward, str) else _short(reward)
            return f"{name} x {value.get('weight', 1)}"
        path = str(value.get("class_path") or "")
        return path.rsplit(".", 1)[-1] or None
    return value
