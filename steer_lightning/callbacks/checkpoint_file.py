"""Checkpoint files: whole or absent, with a checksum, and the one before kept."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steer_lightning.system.run_files import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT
from steer_lightning.system.whole_files import write_bytes

CHECKSUM = "sha256"
"""Where a checkpoint keeps the checksum of all the rest."""


MAX_DEPTH, VALUE_BYTES = 100, 64
MAX_RATIO, MARGIN = 10, 2**20
"""A file may unfold into so many times its bytes, and so many more: small values are packed in it
densely, and parts may be shared."""


class DamagedCheckpointError(RuntimeError):
    """A file that is no checkpoint, or not the one that was written."""


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint aside and renames it.

    An earlier `last.ckpt` stays beside it as `previous.ckpt`: a crash at any moment leaves at
    least one of the two whole.

    Args:
        checkpoint: What `torch.load` takes with `weights_only=True`.
        path: The file.

    Raises:
        OSError: If the disk is full or the folder can't be written.
    """
    buffer = io.BytesIO()  # kilobytes; on a full disk torch.save itself raises no OSError
    torch.save({**checkpoint, CHECKSUM: checksum(checkpoint)}, buffer)
    keep = path.with_name(PREVIOUS_CHECKPOINT) if path.name == LAST_CHECKPOINT else None
    write_bytes(path, buffer.getvalue(), keep=keep)


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a checkpoint, running none of its code, and compares its checksum.

    Args:
        path: The file.
        map_location: As in `torch.load`.

    Returns:
        What was saved. A file without a checksum, of another writer, is taken as it is.

    Raises:
        DamagedCheckpointError: If it can't be read, holds more than plain values and tensors, or
            its checksum is another.
    """
    try:
        return _load(path, map_location)
    except DamagedCheckpointError:
        raise
    except Exception as error:  # zip, pickle and tensors that were tampered with raise anything
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedCheckpointError(f"can't be read ({told})") from error


def _load(path: Path, map_location: Any) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
            raise DamagedCheckpointError("is compressed, which no checkpoint is")
        bad = file.testzip()
    if bad is not None:
        raise DamagedCheckpointError(f"is damaged: the checksum of {bad} is another")
    try:
        found: Any = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message says how to run its code
        raise DamagedCheckpointError("holds more than plain values and tensors") from error
    if not isinstance(found, dict):
        raise DamagedCheckpointError(f"holds a {type(found).__name__}, not a mapping")
    _measure(found, MAX_RATIO * path.stat().st_size + MARGIN)
    expected = found.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(found):
        raise DamagedCheckpointError("is damaged: its content does not match its checksum")
    return found


def _measure(value: Any, left: int, depth: int = 0) -> int:
    """Counts bytes down from `left`: those of tensors, and `VALUE_BYTES` for each other value.

    Raises:
        DamagedCheckpointError: Below 0, or where values are nested too deep: a tensor of one number
            may be spread over terabytes, and a list may hold itself.
    """
    left -= value.nbytes if isinstance(value, torch.Tensor) else VALUE_BYTES
    if left < 0 or depth > MAX_DEPTH:
        raise DamagedCheckpointError("unfolds into far more than the file holds")
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            left = _measure(item, left, depth + 1)
    return left


def checksum(value: Any) -> str:
    """SHA-256 over plain values and tensors, nested in mappings, lists and tuples."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"tensor {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)} ".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r} ".encode())
