"""Writes and reads checkpoint files, which are whole or absent and contain a checksum."""

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
"""Key under which a checkpoint stores the checksum of all its other entries."""


MAX_DEPTH, VALUE_BYTES = 100, 8
MAX_RATIO, MARGIN = 10, 2**20
"""A file may unfold into `MAX_RATIO` times its bytes plus `MARGIN`, because it packs small values
densely and may share parts. Each value takes a byte of the file unless it is part of a container
that is shared, so `VALUE_BYTES` below `MAX_RATIO` lets values that are not shared always pass."""


class DamagedCheckpointError(RuntimeError):
    """Raised for a file that is not a checkpoint, or not the one that was written."""


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint aside and renames it.

    An earlier `last.ckpt` is kept beside it as `previous.ckpt`, so that at least one of the two is
    whole after a crash at any moment.

    Args:
        checkpoint: Values of types that `torch.load` accepts with `weights_only=True`.
        path: File to write.

    Raises:
        OSError: If the disk is full or the folder can't be written.
    """
    buffer = io.BytesIO()  # a few kilobytes; on a full disk torch.save by itself raises no OSError
    torch.save({**checkpoint, CHECKSUM: checksum(checkpoint)}, buffer)
    keep = path.with_name(PREVIOUS_CHECKPOINT) if path.name == LAST_CHECKPOINT else None
    write_bytes(path, buffer.getvalue(), keep=keep)


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a checkpoint without running any code from it, and verifies its checksum.

    Args:
        path: File of the checkpoint.
        map_location: Device to which tensors are loaded, as in `torch.load`.

    Returns:
        Content of the checkpoint. A file without a checksum, from other software, is accepted.

    Raises:
        DamagedCheckpointError: If the file can't be read, holds more than plain values and tensors,
            or does not match its checksum.
    """
    try:
        return _load(path, map_location)
    except DamagedCheckpointError:
        raise
    except Exception as error:  # a zip, pickle or tensor that was tampered with can raise anything
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedCheckpointError(f"can't be read ({told})") from error


def _load(path: Path, map_location: Any) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
            raise DamagedCheckpointError("is compressed, which checkpoints never are")
        bad = file.testzip()
    if bad is not None:
        raise DamagedCheckpointError(f"is damaged: the checksum of {bad} does not match")
    try:
        found: Any = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message would explain how to run the code
        raise DamagedCheckpointError("holds more than plain values and tensors") from error
    if not isinstance(found, dict):
        raise DamagedCheckpointError(f"holds a {type(found).__name__}, not a mapping")
    _measure(found, MAX_RATIO * path.stat().st_size + MARGIN)
    expected = found.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(found):
        raise DamagedCheckpointError("is damaged: its content does not match its checksum")
    return found


def _measure(value: Any, left: int, depth: int = 0) -> int:
    """Counts down from `left`: `VALUE_BYTES` for each value, and more for tensors and long texts.

    A tensor counts with its bytes. A text counts with a part of its length, since a list may share
    one text and give two bytes to each of its places.

    Raises:
        DamagedCheckpointError: If the count falls below 0, or values are nested too deep: a tensor
            of one number may be expanded to terabytes, and a list may contain itself.
    """
    left -= VALUE_BYTES
    if isinstance(value, torch.Tensor):
        left -= value.nbytes
    elif isinstance(value, (str, bytes)):
        left -= len(value) // VALUE_BYTES
    if left < 0 or depth > MAX_DEPTH:
        raise DamagedCheckpointError("unfolds into far more data than the file contains")
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            left = _measure(item, left, depth + 1)
    return left


def checksum(value: Any) -> str:
    """Computes SHA-256 over plain values and tensors, nested in mappings, lists and tuples."""
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
        if all(type(item) is int for item in value):  # random states are thousands of numbers
            digest.update("".join([f"int {item} " for item in value]).encode())
            return
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r} ".encode())
