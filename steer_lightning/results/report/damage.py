"""The error for a file in a run's folder that can't be read."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.errors import ConfigError


def damaged(path: Path, why: object) -> ConfigError:
    """Makes the error for a file that exists but is not as a run writes it.

    Args:
        path: File that is damaged.
        why: What is wrong with the file.
    """
    return ConfigError(
        "run",
        str(path),
        rule="is damaged",
        why=" ".join(str(why).split()).rstrip("."),
        fix="Restore it, or move it out of the folder: the report works without it",
    )
