"""The checkpoint that a run resumes from, and the folder of the current run."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from steer_lightning.callbacks.checkpoint_file import DamagedCheckpointError, load_checkpoint
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.plain_settings import check_same
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import (
    CONFIG,
    SUMMARY,
    checkpoint_files,
    is_locked,
    lock,
    new_run_folder,
    run_folders,
    run_of_checkpoint,
)
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.system.yaml_size import check_yaml_size
from steer_lightning.training.resume import KEY, SETTINGS

log = logging.getLogger(__name__)


def is_first_process() -> bool:
    """Tells whether this process is the first of the run, before the processes are connected.

    The answer comes from the variables of torchrun, SLURM and Lightning's own launcher.
    """
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


class RunInProgress:
    """The folder of the run of one command, for as long as the command lasts.

    `begin` makes the folder and locks it, once the configuration is known. `close` is called at the
    end of the command, whether or not it has begun a run.

    Attributes:
        folder: The folder; None before `begin`.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._given: set[Path] = set()
        self._lock: int | None = None

    def begin(self, root: Path, config_text: str, checkpoint: str | None) -> None:
        """Makes a new folder with the files that the run starts with.

        Args:
            root: The folder of all runs.
            config_text: The resolved configuration, for `config.yaml`.
            checkpoint: The checkpoint that the run resumes from. A copy serves as the previous
                checkpoint until the run has written its own.

        Raises:
            ConfigError: If the folder can't be made.
        """
        self.folder = new_run_folder(root)
        self._lock = lock(self.folder)
        _, previous = checkpoint_files(self.folder)
        self._given = {self.folder / CONFIG, previous}
        write_bytes(self.folder / CONFIG, config_text.encode())
        if checkpoint is not None:
            write_bytes(previous, Path(checkpoint).read_bytes())

    def expect(self, path: Path) -> None:
        """Adds a file that the run starts with, and whose existence is no reason to keep it."""
        self._given.add(path)

    def close(self) -> None:
        """Unlocks the folder, and deletes it if the run has added nothing to it."""
        if self._lock is not None:
            os.close(self._lock)
        if self.folder is None:
            return
        if all(path in self._given for path in self.folder.rglob("*") if not path.is_dir()):
            shutil.rmtree(self.folder, ignore_errors=True)


class DryRun(RunInProgress):
    """A run that makes no folder."""

    def begin(self, root: Path, config_text: str, checkpoint: str | None) -> None:
        """Does nothing; see `RunInProgress.begin`."""


def checkpoint_to_fit(asked: str | None, root: Path, config_text: str) -> Path | None:
    """Finds the checkpoint that `fit` resumes from.

    Args:
        asked: Value of `ckpt_path`. Null takes an interrupted run with the same settings, and `new`
            takes no checkpoint. See `find_checkpoint` for other values.
        root: The folder of all runs.
        config_text: The resolved configuration.

    Returns:
        None for a new run.

    Raises:
        ConfigError: If there is no such checkpoint, or its run has other settings.
    """
    if asked == "new":
        return None
    if asked is not None:
        found = find_checkpoint(asked, root, config_text)
        if found is not None:
            check_same_settings(found, config_text)
        return found
    folder = unfinished_run(root, config_text)
    return None if folder is None else whole_checkpoint(folder)


def checkpoint_to_measure(asked: str | None, root: Path) -> Path | None:
    """Finds the checkpoint that `validate` and `test` load, if one is asked for.

    Raises:
        ConfigError: If there is no such checkpoint.
    """
    if asked in (None, "new"):
        return None
    found = find_checkpoint(str(asked), root)
    if found is None:
        rule = f"there is no checkpoint under trainer.default_root_dir = {root}"
        raise ConfigError("ckpt_path", asked, rule=rule)
    return found


def find_checkpoint(checkpoint: str, root: Path, config_text: str = "") -> Path | None:
    """Finds the checkpoint that the user asked for.

    Args:
        checkpoint: A file, or `last` for the newest run under `root` that has a checkpoint and is
            not running; runs with the same settings come first.
        root: The folder of all runs.
        config_text: The resolved configuration.

    Returns:
        None for `last` if no run has a checkpoint; the command then starts a new run.

    Raises:
        ConfigError: If the file does not exist, or is not a checkpoint of this package.
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
        raise _no_checkpoint(path, "is not a checkpoint of a steer-lightning run")
    return path


def unfinished_run(root: Path, config_text: str) -> Path | None:
    """Finds the newest run of a configuration, if it was interrupted.

    Args:
        root: The folder of all runs.
        config_text: The resolved configuration, as a run's `config.yaml` holds it.

    Returns:
        The run's folder; None if there is no such run, it has ended, or it is still running, which
        gives a warning.
    """
    for folder in run_folders(root):
        if not _has_config(folder, config_text):
            continue
        if is_locked(folder):
            told = "%s has the same settings and is still running: this is a new run"
            log.warning(told, one_line(folder))
            return None
        if (folder / SUMMARY).exists():
            return None
        if has_checkpoint(folder):
            return folder
    return None


def ended_run(root: Path, config_text: str) -> Path | None:
    """Finds the newest run of a configuration that has come to its end; None if there is none.

    Args:
        root: The folder of all runs.
        config_text: The resolved configuration, as a run's `config.yaml` holds it.
    """
    return next(
        (
            folder
            for folder in run_folders(root)
            if _has_config(folder, config_text) and (folder / SUMMARY).exists()
        ),
        None,
    )


def _has_config(folder: Path, config_text: str) -> bool:
    """Tells whether a run has this resolved configuration, whatever it resumed from."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    return _settings(path.read_text(encoding="utf-8", errors="replace")) == _settings(config_text)


def _settings(config_text: str) -> list[str]:
    return [line for line in config_text.splitlines() if not line.startswith("ckpt_path:")]


def check_same_settings(checkpoint: Path, config_text: str) -> None:
    """Refuses a checkpoint whose run optimised something else, or in a different way.

    Args:
        checkpoint: File in a run's folder; a file elsewhere is not compared.
        config_text: The resolved configuration.

    Raises:
        ConfigError: If a setting differs, with both values of the first one that does; or if the
            run's configuration is damaged.
    """
    path = run_of_checkpoint(checkpoint) / CONFIG
    if not path.is_file():
        return
    try:
        saved = _flat(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise _no_checkpoint(path, f"can't be read ({error})") from error
    now = _flat(config_text)
    check_same(
        saved,
        {key: now.get(key) for key in sorted(saved.keys() | now.keys())},
        told=f"the run of {checkpoint} had",
        why="A run can only resume with the settings that it started with",
        fix="Restore the setting, or start a new run from the vectors with "
        "model.steering.init_from",
    )


def _flat(config_text: str) -> dict[str, Any]:
    """Returns, by dotted key, the settings that must not change."""
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
    """Finds a run's `last.ckpt` or, with a warning, the previous one if `last.ckpt` is damaged.

    Raises:
        ConfigError: If both are damaged.
    """
    damage: list[str] = []
    for path in checkpoint_files(folder):
        if not path.exists():  # the run was killed between two renames
            continue
        try:
            found = load_checkpoint(path)
        except DamagedCheckpointError as error:
            damage.append(f"{path} {error}")
            continue
        if damage:
            told = (one_line(damage[0]), one_line(path.name), found["global_step"])
            log.warning("%s: using %s of step %d instead", *told)
        return path
    raise ConfigError(
        "ckpt_path",
        str(folder),
        rule="holds no intact checkpoint: " + "; ".join(damage),
        fix="Set ckpt_path to new to start a new run, or to a checkpoint of an earlier run",
    )


def _no_checkpoint(path: Path, rule: str) -> ConfigError:
    return ConfigError(
        "ckpt_path",
        str(path) or UNKNOWN,
        rule=rule,
        fix="Use a file in the folder checkpoints/ of a run, or set model.steering.init_from to a "
        "vectors file",
    )


def has_checkpoint(folder: Path) -> bool:
    """Tells whether a run has written a checkpoint."""
    return any(path.is_file() for path in checkpoint_files(folder))
