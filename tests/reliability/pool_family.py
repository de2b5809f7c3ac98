"""The processes of reward pools, and rewards that are scored in one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from steer_lightning.rewards import RewardPool, RewardSum, WeightedReward
from steer_lightning.rewards.pool import marked


def children(pid: int) -> set[int]:
    """Of whichever of its threads."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.add(int(stat.parent.name))
    return found


def descendants(pid: int) -> set[int]:
    found = children(pid)
    return found.union(*map(descendants, found))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def left_behind() -> list[int]:
    """What pools of this process have started, also what is nobody's child any more.

    Not the keepers and workers that are to live.
    """
    found = []
    for pid in marked(f"{os.getpid()}-"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"rewards.pool_keeper" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def rewards(pool: RewardPool, *parts: object) -> RewardSum:
    return RewardSum([WeightedReward(reward=part) for part in parts], pool)  # type: ignore[arg-type]


def the_keeper() -> int:
    """Of the pool that this process has made last.

    Other tests leave children of other kinds, such as a fork server, and pools of their own.
    """
    keepers = [
        child
        for child in children(os.getpid())
        if b"keeper" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return max(keepers, key=started)


def started(pid: int) -> int:
    """When a process has started, in ticks of the clock since the machine has."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
