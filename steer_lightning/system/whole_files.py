"""Writes files and folders that are whole or absent: written aside, flushed, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yields a temporary file in the same folder, and renames it to `path` at the end.

    If an error occurs, the temporary file is deleted.

    Args:
        path: File to write; its folder is created if it is missing.
        keep: Name that an earlier `path` gets once the new file is on the disk.

    Raises:
        OSError: If the disk is full or the folder can't be written; an earlier `path` stays
            unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.chmod(0o644)  # mkstemp's 0600 would hide results from colleagues
        if keep is not None and path.exists():
            path.replace(keep)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Writes a file completely or not at all; see `written_aside`."""
    with written_aside(path, keep) as aside:
        aside.write_bytes(data)


@contextmanager
def folder_written_aside(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`, and renames it to `path` at the end.

    If an error occurs, the temporary folder is deleted.

    Args:
        path: Folder to write. An existing folder with this name is replaced, so check first.

    Raises:
        OSError: If the disk is full or the parent folder can't be written; an earlier `path` stays
            unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    earlier = aside.with_name(f"{aside.name}.earlier")
    try:
        yield aside
        for name in aside.rglob("*"):
            if name.is_file():
                with name.open("rb") as file:
                    os.fsync(file.fileno())
            # mkdtemp's 0700 and safetensors' 0600 would hide results from colleagues
            name.chmod(0o755 if name.is_dir() else 0o644)
        aside.chmod(0o755)
        if path.exists():
            path.rename(earlier)
        try:
            aside.rename(path)
        except OSError:
            if earlier.exists():
                earlier.rename(path)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
