"""The command line, killed at the n-th time that it passes a point of a step, or of saving."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAVING = ("half written", "written", "before renames", "between renames", "after renames")
STEP = ("completion sampled", "all sampled", "updated")

Passed = Callable[[str], None]


def main_killed() -> None:
    """Runs it; the variable KILL_AT is POINT:N."""
    from steer_lightning.cli import main

    point, _, count = os.environ["KILL_AT"].partition(":")
    left = {"times": int(count)}

    def passed(here: str) -> None:
        if here == point:
            left["times"] -= 1
            if not left["times"]:
                os.kill(os.getpid(), signal.SIGKILL)

    _watch_saving(passed)
    _watch_steps(passed)
    sys.exit(main())


def _watch_saving(passed: Passed) -> None:
    write_bytes, replace = Path.write_bytes, Path.replace

    def write_in_two(path: Path, data: Any) -> int:
        if path.suffix != ".ckpt":
            return write_bytes(path, data)
        write_bytes(path, data[: len(data) // 2])
        passed("half written")
        written = write_bytes(path, data)
        passed("written")
        return written

    def replace_slowly(path: Path, target: Any) -> Path:
        if path.suffix != ".ckpt":
            return replace(path, target)
        passed("before renames" if target.name == "previous.ckpt" else "between renames")
        found = replace(path, target)
        if target.name == "last.ckpt":
            passed("after renames")
        return found

    Path.write_bytes, Path.replace = write_in_two, replace_slowly  # type: ignore[method-assign]


def _watch_steps(passed: Passed) -> None:
    from steer_lightning.rewards.scoring import Scoring
    from steer_lightning.training.gradient import BatchGradient
    from steer_lightning.training.update import Updater

    add, accumulate, update = Scoring.add, BatchGradient.accumulate, Updater.update

    def add_first(self: Any, *words: Any) -> None:
        add(self, *words)
        passed("completion sampled")

    def accumulate_later(self: Any, *words: Any, **named: Any) -> Any:
        passed("all sampled")
        return accumulate(self, *words, **named)

    def update_first(self: Any, *words: Any) -> Any:
        found = update(self, *words)
        passed("updated")
        return found

    Scoring.add, BatchGradient.accumulate = add_first, accumulate_later  # type: ignore[method-assign]
    Updater.update = update_first  # type: ignore[method-assign]
