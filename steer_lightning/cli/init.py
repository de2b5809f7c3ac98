"""The command `init`, which writes a small starter project."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from steer_lightning.cli.options import read_options
from steer_lightning.cli.shipped import shipped_folder
from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import one_line
from steer_lightning.system.whole_files import folder_written_aside


def init(folder: str) -> Path:
    """Writes a project that trains the quickstart model on sums, for you to change file by file.

    Args:
        folder: Folder to make.

    Returns:
        The folder.

    Raises:
        ConfigError: If a file or folder of that name already exists.
    """
    target = Path(folder).expanduser()
    if target.exists():
        fix = "Name a new folder: existing ones are not overwritten"
        raise ConfigError("init", folder, rule="already exists", fix=fix)
    with folder_written_aside(target.absolute()) as aside:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(shipped_folder("project"), aside, ignore=unwanted, dirs_exist_ok=True)
    return target


def run(words: Sequence[str]) -> None:
    """Runs `init`.

    Args:
        words: The command and the folder.

    Raises:
        ConfigError: For any mistake, before anything is written.
    """
    options = read_options(
        words[1:],
        init,
        prog="steer-lightning init",
        description="Writes a small project: configuration, reward, callback, data.",
        positional="folder",
    )
    folder = init(**options)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        print(f"  {one_line(file)}")
    print(f"\ncd {one_line(folder)}\nsteer-lightning fit --config config.yaml")
