"""Processes with all that they start: finding, adopting and killing them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the processes of a session; `pid` has not been reaped, so it is valid."""
    with suppress(ProcessLookupError):  # it has no group of its own
        os.killpg(pid, number)


def children() -> set[int]:
    """Returns the ids of this process's children; empty if the system does not list them."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text().split()} if path.exists() else set()


def kill_orphans(known: Collection[int] = ()) -> None:
    """Kills children of this process, and those that it has adopted.

    Args:
        known: Ids of the children to leave alone.
    """
    while strays := children() - set(known):
        for pid in strays:
            kill_group(pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants; Linux only."""
    control_process(PR_SET_CHILD_SUBREAPER, 1)


def control_process(option: int, value: int) -> None:
    """Calls Linux's `prctl`; does nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
