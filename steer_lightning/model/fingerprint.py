"""What tells a model's weights from others."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import torch

Tensors = Iterable[tuple[str, torch.Tensor]]
"""Weights and buffers by name, in any order."""


def checksum(tensors: Tensors) -> int:
    """Tells a model from another one of the same shape: of some numbers of each tensor."""
    crc = 0
    for name, tensor in tensors:
        flat = tensor.detach().flatten()
        some = torch.cat([flat[:64], flat[-64:]]).float().cpu()
        crc ^= zlib.crc32(some.numpy().tobytes(), zlib.crc32(name.encode()))
    return crc


def sha256(tensors: Tensors) -> str:
    """Hash of every number."""
    parts = []
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        parts.append(f"{name} {hashlib.sha256(plain.tobytes()).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()
