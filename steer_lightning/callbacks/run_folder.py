"""Access to a run's folder, `trainer.default_root_dir`; the command line makes it for each run."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
from tqdm import tqdm

from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import one_line


def run_folder(trainer: L.Trainer) -> Path:
    """Returns the folder of the run's files."""
    return Path(trainer.default_root_dir)


def claim(trainer: L.Trainer, name: str) -> Path:
    """Returns the path of a file that this run is going to write.

    Raises:
        ConfigError: If an earlier run has left a file of this name in the folder.
    """
    path = run_folder(trainer) / name
    if path.exists():
        raise ConfigError(
            "trainer.default_root_dir",
            str(path.parent),
            rule=f"already holds {name} of an earlier run, which would be overwritten",
            fix="Set another folder",
        )
    return path


def tell(trainer: L.Trainer, *lines: str) -> None:
    """Prints on the first process, above the progress bar if it is shown.

    Args:
        trainer: Trainer of the run.
        lines: Lines; each stays a single line, whatever names and texts it contains.
    """
    if not trainer.is_global_zero:
        return
    tqdm.write("\n".join(map(one_line, lines)), file=sys.stdout)
    sys.stdout.flush()
