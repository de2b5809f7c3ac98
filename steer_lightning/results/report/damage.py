"""What is said of a file in a run's folder that can't be read."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.errors import ConfigError


def damaged(path: Path, why: object) -> ConfigError:
    """The error for a file that is there, but is not what a run writes.

    Args:
        path: The file.
        why: What is wrong with it.
    """
    return ConfigError(
        "run",
        str(path),
        rule="is damaged",
        why=" ".join(str(why).split()).rstrip("."),
        fix="Restore it, or move it out of the folder: the report does without it",
    )
