"""The distinction between errors that say that memory ran out and all others."""

from __future__ import annotations

import torch

MESSAGES = (
    "DefaultCPUAllocator",  # the rest of its message differs between systems
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of plain RuntimeErrors that torch raises when memory runs out.

`torch.OutOfMemoryError` is raised for memory of a GPU that torch's own allocator asks for. A CPU's
memory, and what CUDA and its libraries allocate by themselves, is told by the message alone.
"""


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in MESSAGES)
