"""Distinguishes errors that say that memory ran out from all others."""

from __future__ import annotations

import torch

MESSAGES = (
    "DefaultCPUAllocator",  # the rest of its message differs between systems
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of plain RuntimeErrors that torch raises when memory runs out.

`torch.OutOfMemoryError` is raised only for GPU memory from torch's own allocator. For memory of a
CPU, and memory that CUDA and its libraries allocate themselves, only the message says so.
"""


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in MESSAGES)
