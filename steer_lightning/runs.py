"""Folders of runs, and the checkpoints in them."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from steer_lightning.checkpoint_file import (
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    load_checkpoint,
)
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.resume import KEY

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

RECENT = 20
"""So many runs are looked at for an interrupted one of the same settings."""


def new_run_folder(root: Path) -> Path:
    """Makes `root/run-N` with the first free N; no run ever writes into another's folder.

    Raises:
        ConfigError: If there can be no such folder.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            "trainer.default_root_dir",
            str(root),
            rule="must be a folder",
            why=f"{error.filename} is a file",
        ) from error
    number = 1 + max((_run_number(path) for path in root.iterdir()), default=0)
    while True:
        folder = root / f"run-{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another process was faster
            number += 1
        else:
            return folder


def drop_if_empty(folder: Path | None) -> None:
    """Deletes the folder of a run that never got as far as writing something."""
    if folder is not None:
        with suppress(OSError):  # not empty
            folder.rmdir()


def find_checkpoint(checkpoint: str, root: Path) -> Path | None:
    """The checkpoint to go on from.

    Args:
        checkpoint: A file, or `last` for the newest run under `root` that has one.
        root: Of the runs.

    Returns:
        None for `last` if no run has one: then a new run is what the same command starts.

    Raises:
        ConfigError: If there is no such file, or it is no checkpoint of this package.
    """
    if checkpoint == "last":
        folders = [folder for folder in run_folders(root) if has_checkpoint(folder)]
        return whole_checkpoint(folders[0]) if folders else None
    path = Path(checkpoint)
    if not path.is_file():
        raise ConfigError(
            "ckpt_path", checkpoint, rule="there is no such file", fix="Set a .ckpt file, or last"
        )
    try:
        found = load_checkpoint(path)
    except DamagedCheckpointError as error:
        raise _no_checkpoint(path, str(error)) from error
    if KEY not in found:
        raise _no_checkpoint(path, "is no checkpoint of a steer-lightning run")
    return path


def unfinished_run(root: Path, config: Mapping[str, Any] | None) -> Path | None:
    """The newest run of a configuration, if it was interrupted.

    Args:
        root: Of the runs.
        config: Resolved, as in a run's `config.yaml`.

    Returns:
        Its folder; None if there is none, it has ended, or it is still under way.
    """
    for folder in run_folders(root)[:RECENT]:
        saved = folder / "config.yaml"
        if not has_checkpoint(folder) or not saved.is_file():
            continue
        if comparable(saved.read_text(encoding="utf-8", errors="replace")) == config:
            ended = (folder / "summary.json").exists() or is_locked(folder)
            return None if ended else folder
    return None


def comparable(config_text: str) -> dict[str, Any] | None:
    """A configuration as `unfinished_run` takes it, from its YAML; None if that is damaged."""
    try:
        config = yaml.safe_load(config_text)
    except yaml.YAMLError:
        return None
    if not isinstance(config, dict):
        return None
    return {key: value for key, value in config.items() if key != "ckpt_path"}


def whole_checkpoint(folder: Path) -> Path:
    """A run's `last.ckpt`, or, with a warning, the one before it if that is damaged.

    Raises:
        ConfigError: If both are damaged.
    """
    damage: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / "checkpoints" / name
        if not path.exists():  # killed between two renames
            continue
        try:
            found = load_checkpoint(path)
        except DamagedCheckpointError as error:
            damage.append(f"{path} {error}")
            continue
        if damage:
            log.warning("%s: %s of step %d is used", damage[0], path.name, found["global_step"])
        return path
    raise ConfigError(
        "ckpt_path",
        str(folder),
        rule="holds no whole checkpoint: " + "; ".join(damage),
        fix="Set ckpt_path: new to start anew, or to a checkpoint of an earlier run",
    )


def _no_checkpoint(path: Path, rule: str) -> ConfigError:
    return ConfigError(
        "ckpt_path",
        str(path) or UNKNOWN,
        rule=rule,
        fix="Use a file of a run's folder checkpoints/, or set model.steering.init_from to a "
        "vectors file",
    )


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has come as far as its first checkpoint."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


def run_folders(root: Path) -> list[Path]:
    """The runs under a folder, the newest first."""
    return sorted(root.glob("run-*"), key=_run_number, reverse=True)


def lock(folder: Path) -> int:
    """Marks a run as under way, for as long as this process lives; keep the descriptor."""
    descriptor = os.open(folder, os.O_RDONLY)
    _take_lock(descriptor)
    return descriptor


def is_locked(folder: Path) -> bool:
    """Whether a run is under way."""
    descriptor = os.open(folder, os.O_RDONLY)
    free = _take_lock(descriptor)
    os.close(descriptor)
    return not free


def _take_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("a file system without locks: %s", error)
    return True


def _run_number(path: Path) -> int:
    match = re.fullmatch(r"run-(\d+)", path.name)
    return int(match[1]) if match else 0
