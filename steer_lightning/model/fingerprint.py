"""The checksum and the hash that identify the weights of a model."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import torch

Tensors = Iterable[tuple[str, torch.Tensor]]
"""Weights and buffers by name, in any order."""


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
