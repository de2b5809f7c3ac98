"""The C library's allocator, which keeps freed memory for each thread by itself (glibc)."""

from __future__ import annotations

import ctypes
import os
from typing import Any

M_ARENA_MAX = -8
"""Number of the setting in glibc's `malloc.h`."""


def share_between_threads() -> None:
    """Lets threads that start from now on reuse the memory that others have freed."""
    _call("mallopt", M_ARENA_MAX, 1)


def give_back() -> None:
    """Gives memory that is free back to the system."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Calls a function of the C library if it has it; others than glibc do not."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    function: Any = getattr(library, name, None)
    if function is not None:
        function(*arguments)
