"""The memory cap of a worker, and the share of it that the worker has used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_cap: tuple[int, int] | None = None
"""Bytes of address space at the start, and the bytes that may be allocated in addition."""


def cap_memory(num_bytes: int) -> None:
    """Limits the memory that this process may allocate from now on; Linux only."""
    global _cap
    if sys.platform != "linux":
        return
    _cap = _status("VmSize"), num_bytes
    limit = sum(_cap)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_share() -> float:
    """Returns the peak of the allocated memory as a share of the cap; 0 without a cap."""
    if _cap is None:
        return 0.0
    start, allowed = _cap
    return max(0, _status("VmPeak") - start) / allowed


def _status(key: str) -> int:
    """Returns a value in bytes that Linux reports in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")
