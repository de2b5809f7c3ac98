"""Folders of runs, and the checkpoints in them."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.resume import KEY


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


def find_checkpoint(checkpoint: str, root: Path) -> Path:
    """The checkpoint to go on from.

    Args:
        checkpoint: A file, or `last` for the newest run under `root` that has one.
        root: Of the runs.

    Raises:
        ConfigError: If there is none, or it is no checkpoint of this package.
    """
    path = last_checkpoint(root) if checkpoint == "last" else Path(checkpoint)
    if not path.is_file():
        raise ConfigError(
            "ckpt_path", checkpoint, rule="there is no such file", fix="Set a .ckpt file, or last"
        )
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _no_checkpoint(path, f"can't be read ({told})") from error
    if not isinstance(found, dict) or KEY not in found:
        raise _no_checkpoint(path, "is no checkpoint of a steer-lightning run")
    return path


def _no_checkpoint(path: Path, rule: str) -> ConfigError:
    return ConfigError(
        "ckpt_path",
        str(path) or UNKNOWN,
        rule=rule,
        fix="Use a file of a run's folder checkpoints/, or set model.steering.init_from to a "
        "vectors file",
    )


def last_checkpoint(root: Path) -> Path:
    """The checkpoint of the newest run under `root` that has one.

    Raises:
        ConfigError: If there is none.
    """
    found = sorted(
        root.glob("run-*/checkpoints/last.ckpt"), key=lambda path: _run_number(path.parents[1])
    )
    if not found:
        raise ConfigError(
            "ckpt_path",
            "last",
            rule=f"there is no run-*/checkpoints/last.ckpt under trainer.default_root_dir = {root}",
        )
    return found[-1]


def _run_number(path: Path) -> int:
    match = re.fullmatch(r"run-(\d+)", path.name)
    return int(match[1]) if match else 0
