"""The folders of runs: `root/run-1`, `root/run-2`, ..."""

from __future__ import annotations

import re
from pathlib import Path

from steer_lightning.errors import ConfigError


def new_run_folder(root: Path) -> Path:
    """Creates `root/run-N` with the first free N; no run ever writes into another run's folder.

    Raises:
        ConfigError: If the folder can't be created because a file is in its way.
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
    number = 1 + max((run_number(path) for path in root.iterdir()), default=0)
    while True:
        folder = root / f"run-{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another process has just taken this number
            number += 1
        else:
            return folder


def run_folders(root: Path) -> list[Path]:
    """Returns the folders of the runs under `root`, the newest first."""
    return sorted(root.glob("run-*"), key=run_number, reverse=True)


def run_number(path: Path) -> int:
    """Returns N of a folder `run-N`, or 0 for any other name."""
    match = re.fullmatch(r"run-(\d+)", path.name)
    return int(match[1]) if match else 0
