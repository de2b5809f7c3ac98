"""Reads the files in a run's folder, some of which may be missing if the run was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steer_lightning.errors import ConfigError
from steer_lightning.results.report.damage import damaged
from steer_lightning.system.run_files import CHECKPOINTS, CONFIG, LENS, LENS_FOLDER, LENS_LINES
from steer_lightning.system.yaml_size import check_yaml_size

Record = dict[str, Any]


def read_text(path: Path) -> str | None:
    """Reads a text file; returns None if it does not exist.

    Raises:
        ConfigError: If the file is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise damaged(path, error) from error


def read_record(path: Path, needed: Mapping[str, type | tuple[type, ...]]) -> Record | None:
    """Reads a JSON object; returns None if there is no such file.

    Args:
        path: File to read.
        needed: Keys that the object must have, with the types of their values.

    Raises:
        ConfigError: If the file is damaged or lacks a key.
    """
    text = read_text(path)
    return None if text is None else _parsed(path, text, needed)


def read_records(path: Path, needed: Mapping[str, type | tuple[type, ...]]) -> list[Record]:
    """Reads JSON objects, one per line; returns an empty list if there is no such file.

    A last line without a line end was being written when the run was killed, and is left out.

    Raises:
        ConfigError: If a line is damaged or lacks a key.
    """
    lines = (read_text(path) or "").split("\n")[:-1]
    return [_parsed(path, line, needed, f"Line {k}: ") for k, line in enumerate(lines, 1) if line]


def _parsed(
    path: Path, text: str, needed: Mapping[str, type | tuple[type, ...]], place: str = ""
) -> Record:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{place}{error}") from error
    if not isinstance(found, dict):
        raise damaged(path, f"{place}It is not a JSON object")
    for key, kinds in needed.items():
        if not isinstance(found.get(key), kinds):
            raise damaged(path, f"{place}It lacks `{key}`, or the value has another type")
    return found


def read_settings(folder: Path) -> Record:
    """Reads the configuration of a run; returns an empty dictionary if there is none.

    Raises:
        ConfigError: If the file is not valid YAML.
    """
    path = folder / CONFIG
    try:
        text = read_text(path) or ""
        check_yaml_size(text)  # the page shows the settings, in which aliases would unfold
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise damaged(path, error) from error
    return found if isinstance(found, dict) else {}


def setting(settings: Any, *keys: str) -> Any:
    """Returns a setting by its keys, from the outermost to the innermost, or None if it is missing.

    The key `init_args`, which holds the arguments of a class, need not be named.
    """
    for key in keys:
        if not isinstance(settings, dict):
            return None
        arguments = settings.get("init_args")
        inner = arguments if key not in settings and isinstance(arguments, dict) else settings
        settings = inner.get(key)
    return settings


def find_stages(folder: Path) -> list[Path]:
    """Finds the folders of one interrupted run, oldest first.

    A run that resumes another one has a new folder, such as `run-2`, and its configuration names a
    checkpoint in the earlier folder, which must be beside the new one.
    """
    found = [folder.absolute()]
    while (before := _stage_before(found[0])) is not None and before not in found:
        found.insert(0, before)
    return found


def _stage_before(folder: Path) -> Path | None:
    if not any(other != folder and other.is_dir() for other in folder.parent.iterdir()):
        return None  # reading settings takes long, and a sweep has many runs without a neighbour
    path = setting(read_settings(folder), "ckpt_path")
    if not isinstance(path, str) or len(Path(path).parts) < 3:
        return None
    run = Path(path).parents[1]
    beside = folder.parent / run.name
    # a relative path starts at the folder in which the command was run
    same = run.parent.name in (folder.parent.name, "") and Path(path).parent.name == CHECKPOINTS
    return beside if same and beside.is_dir() else None


LENS_KEYS: dict[str, type | tuple[type, ...]] = {"layers": list, "width": int}
LOOK_KEYS: dict[str, type | tuple[type, ...]] = {"step": int, "norms": list, "layers": list}


def read_lens(folder: Path) -> Record | None:
    """Reads the `lens.json` of the command `lens` or, if it is missing, of the run itself."""
    by_command = read_record(folder / LENS_FOLDER / LENS, LENS_KEYS)
    return by_command or read_record(folder / LENS, LENS_KEYS)


def read_looks(stages: Sequence[Path]) -> list[Record]:
    """Reads `lens.jsonl` of all stages of a run; for a repeated step, the latest stage counts."""
    found = {look["step"]: look for s in stages for look in read_records(s / LENS_LINES, LOOK_KEYS)}
    return [found[step] for step in sorted(found)]
