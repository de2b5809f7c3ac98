"""The checksum and the hashes that identify the weights of a model."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

Tensors = Iterable[tuple[str, torch.Tensor]]
"""Weights and buffers by name, in any order."""

END = 4096
"""Number of bytes at either end of a tensor in a file that `hash_of_folder` reads."""


def hash_of_folder(folder: Path) -> str:
    """Returns a hash of a model's folder, without reading all of its weights.

    It reads the files that say what the weights mean, and of each tensor in a file of safetensors
    the name, shape, dtype, place and both ends, so that another export into the same folder has
    another hash. Weights in other files are read whole.

    Args:
        folder: Folder with `config.json`, weights, and code if the model comes with any.
    """
    found = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    others = [] if weights else folder.glob("pytorch_model*.bin")
    settings = (folder / name for name in ("config.json", "generation_config.json"))
    whole = [*(path for path in settings if path.is_file()), *folder.glob("*.py"), *others]
    for path in sorted(whole):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
    for path in weights:
        for part in _ends(path):
            found.update(part)
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
    return found.hexdigest()


def _ends(path: Path) -> Iterator[bytes]:
    """Yields the header of a file of safetensors, and both ends of each of its tensors."""
    with path.open("rb") as file:
        size = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
        header = file.read(size)
        yield header
        try:
            tensors = json.loads(header)
        except ValueError:
            return  # loading the model says what is damaged
        places = (x["data_offsets"] for name, x in tensors.items() if name != "__metadata__")
        for start, end in sorted(places):
            for at in (start, max(start, end - END)):
                file.seek(8 + size + at)
                yield file.read(min(END, end - start))


def checksum(tensors: Tensors) -> int:
    """Returns a checksum of some numbers of each tensor, which differs for other weights.

    It distinguishes models of the same shape, and takes little time.
    """
    crc = 0
    for name, tensor in tensors:
        flat = tensor.detach().flatten()
        some = torch.cat([flat[:64], flat[-64:]]).float().cpu()
        crc ^= zlib.crc32(some.numpy().tobytes(), zlib.crc32(name.encode()))
    return crc


def sha256(tensors: Tensors) -> str:
    """Returns a hash of all numbers, as hexadecimal digits."""
    parts = []
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        parts.append(f"{name} {hashlib.sha256(plain.tobytes()).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()
