"""Runs that go on: checkpoints, settings and locks in their folders."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from steer_lightning.callbacks.checkpoint_file import (
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    load_checkpoint,
)
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import run_folders
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.system.yaml_size import check_yaml_size
from steer_lightning.training.resume import KEY

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

CONFIG, FOLDER = "config.yaml", "checkpoints"
"""In a run's folder."""

SETTINGS = (
    *("advantage", "dtype", "dynamic_sampling", "gradient_clip", "kl_in_reward", "loss"),
    *("mask_overlong", "optimizer", "rewards", "sampling", "schedule", "steering", "updates"),
)
"""Parts of `model` that a run goes on with as they were; checkpoints know of base and data."""


def is_first_process() -> bool:
    """Whether this process is the first one of the run, before the processes are connected.

    By the variables of torchrun, SLURM and Lightning's own launcher.
    """
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def begin(folder: Path, config_text: str, checkpoint: str | None) -> None:
    """Leaves in a new run's folder what it begins with.

    Args:
        folder: Of the run.
        config_text: The resolved configuration, for `config.yaml`.
        checkpoint: That it goes on from; a copy takes the place of the one before its first.
    """
    write_bytes(folder / CONFIG, config_text.encode())
    if checkpoint is not None:
        write_bytes(folder / FOLDER / PREVIOUS, Path(checkpoint).read_bytes())


def drop_if_unused(folder: Path | None) -> None:
    """Deletes the folder of a run that never got as far as adding something to it."""
    if folder is None:
        return
    given = {folder / CONFIG, folder / FOLDER / PREVIOUS}
    if all(path in given for path in folder.rglob("*") if not path.is_dir()):
        shutil.rmtree(folder, ignore_errors=True)


def find_checkpoint(checkpoint: str, root: Path, config_text: str = "") -> Path | None:
    """The checkpoint to go on from.

    Args:
        checkpoint: A file, or `last` for the newest run under `root` that has one and is not under
            way; those of the same settings come first.
        root: Of the runs.
        config_text: The resolved configuration.

    Returns:
        None for `last` if no run has one: then a new run is what the same command starts.

    Raises:
        ConfigError: If there is no such file, or it is no checkpoint of this package.
    """
    if checkpoint == "last":
        folders = [run for run in run_folders(root) if has_checkpoint(run) and not is_locked(run)]
        same = [run for run in folders if _has_config(run, config_text)]
        return whole_checkpoint((same or folders)[0]) if folders else None
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


def unfinished_run(root: Path, config_text: str) -> Path | None:
    """The newest run of a configuration, if it was interrupted.

    Args:
        root: Of the runs.
        config_text: Resolved, as in a run's `config.yaml`.

    Returns:
        Its folder; None if there is none, it has ended, or, with a warning, is still under way.
    """
    for folder in run_folders(root):
        if not _has_config(folder, config_text):
            continue
        if is_locked(folder):
            told = "%s, of the same settings, is under way: this is a new run"
            log.warning(told, one_line(folder))
            return None
        if (folder / "summary.json").exists():
            return None
        if has_checkpoint(folder):
            return folder
    return None


def _has_config(folder: Path, config_text: str) -> bool:
    """Whether a run has this resolved configuration, wherever it went on from."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    return _settings(path.read_text(encoding="utf-8", errors="replace")) == _settings(config_text)


def _settings(config_text: str) -> list[str]:
    return [line for line in config_text.splitlines() if not line.startswith("ckpt_path:")]


def check_same_settings(checkpoint: Path, config_text: str) -> None:
    """Compares what a run optimises, and how, with the run that a checkpoint is of.

    Args:
        checkpoint: In a run's folder; one that lies elsewhere is not compared.
        config_text: The resolved configuration.

    Raises:
        ConfigError: With both values of the first setting that differs, or if the run's
            configuration is damaged.
    """
    path = checkpoint.absolute().parents[1] / CONFIG
    if not path.is_file():
        return
    try:
        saved = _flat(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise _no_checkpoint(path, f"can't be read ({error})") from error
    now = _flat(config_text)
    for key in sorted(saved.keys() | now.keys()):
        if saved.get(key) != now.get(key):
            raise ConfigError(
                key,
                now.get(key),
                rule=f"the run of {checkpoint} had {saved.get(key)!r}",
                why="It would not be the same run",
                fix="Set it as it was; or start anew from the vectors alone by "
                "model.steering.init_from",
            )


def _flat(config_text: str) -> dict[str, Any]:
    """The settings that must not change, by dotted key."""
    found: dict[str, Any] = {}

    def walk(key: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                walk(f"{key}.{name}", item)
        elif not key.endswith(("steering.init_from", "steering.init_args.init_from")):
            # the settings of SteeringVectors may be written without its class_path
            found[key.replace("model.steering.init_args.", "model.steering.")] = value

    check_yaml_size(config_text)
    config = yaml.safe_load(config_text)
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise ValueError("it has no mapping named model")
    for name in SETTINGS:
        walk(f"model.{name}", model.get(name))
    return found


def whole_checkpoint(folder: Path) -> Path:
    """A run's `last.ckpt`, or, with a warning, the one before it if that is damaged.

    Raises:
        ConfigError: If both are damaged.
    """
    damage: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / FOLDER / name
        if not path.exists():  # killed between two renames
            continue
        try:
            found = load_checkpoint(path)
        except DamagedCheckpointError as error:
            damage.append(f"{path} {error}")
            continue
        if damage:
            told = (one_line(damage[0]), one_line(path.name), found["global_step"])
            log.warning("%s: %s of step %d is used", *told)
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
    return any((folder / FOLDER / name).is_file() for name in (LAST, PREVIOUS))


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
        log.warning(
            "this file system has no locks (%s): a second start of the same command would go on "
            "from a run that is still under way",
            one_line(error),
        )
    return True
