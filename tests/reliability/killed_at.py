"""The command line, killed at the n-th time that it passes a point of a step, or of saving.

KILL_AT=POINT:N python killed_at.py fit --config ...
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

SAVING = ("half written", "written", "before renames", "between renames", "after renames")
STEP = ("completion sampled", "all sampled", "updated")

if __name__ == "__main__":
    point, _, count = os.environ["KILL_AT"].partition(":")
    left = {"times": int(count)}

    def passed(here: str) -> None:
        if here == point:
            left["times"] -= 1
            if not left["times"]:
                os.kill(os.getpid(), signal.SIGKILL)

    write_bytes, replace, fsync = Path.write_bytes, Path.replace, os.fsync

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
    from steer_lightning.cli import main
    from steer_lightning.module import SteeringModule
    from steer_lightning.rewards.scoring import Scoring
    from steer_lightning.training.gradient import BatchGradient

    add, accumulate, update = Scoring.add, BatchGradient.accumulate, SteeringModule.update

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
    SteeringModule.update = update_first  # type: ignore[method-assign]

    sys.exit(main())
