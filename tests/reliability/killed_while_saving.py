"""The command line, killed at the n-th time that it passes a point of saving a checkpoint.

KILL_AT=POINT:N python killed_while_saving.py fit --config ...
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

POINTS = ("half written", "written", "before renames", "between renames", "after renames")

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

    sys.exit(main())
