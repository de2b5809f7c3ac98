"""A command that ends with this process, however this process ends.

A keeper starts the command, and holds one end of a pipe whose other end is here. The system closes
the pipe when this process ends, for whatever reason. The keeper then ends the command, with all
processes that it has started.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from steer_lightning.system.process_family import adopt_orphans, kill_group, kill_orphans

KEEPER = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from steer_lightning.system.tied_command import keep; keep(sys.argv[2:])"
)
"""Without the current folder, where a file json.py would replace the standard module."""

GRACE = 15.0
"""Seconds that a command has to end by itself."""

LOOK = 0.2
"""Seconds between two looks at the command."""


class TiedCommand:
    """Starts a command, which ends with this process or when `end` is called.

    Args:
        words: Words of the command.
        name: Name of the command, for the file of its output.
        environment: Further environment variables.

    Attributes:
        output: File with the output of the command.
    """

    def __init__(self, words: Sequence[str], name: str, environment: Mapping[str, str]) -> None:
        descriptor, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".log")
        self.output = Path(path)
        module_path = [entry or os.getcwd() for entry in sys.path]
        with os.fdopen(descriptor, "wb") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", KEEPER, json.dumps(module_path), *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process only
                env={**os.environ, **environment},
            )
        self.end = weakref.finalize(self, _end, self._keeper)

    def status(self) -> int | None:
        """Returns the exit status of the command; None while it runs."""
        return self._keeper.poll()

    def last_lines(self, count: int = 15) -> str:
        """Returns the end of the command's output."""
        text = self.output.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-count:])


def _end(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait()


def keep(words: Sequence[str]) -> None:
    """Runs a command until it ends or standard input is closed; runs in the keeper.

    Args:
        words: Words of the command.
    """
    adopt_orphans()
    command = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # not before: it would inherit it
        signal.signal(number, signal.SIG_IGN)
    while command.poll() is None:
        if select.select([sys.stdin], [], [], LOOK)[0]:  # nothing is ever written to the pipe
            _stop(command)
    kill_group(command.pid)  # what the command has left behind
    kill_orphans()
    sys.exit(command.returncode if command.returncode >= 0 else 128 - command.returncode)


def _stop(command: subprocess.Popen[bytes]) -> None:
    """Asks a command to end, and kills it if it does not."""
    kill_group(command.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while command.poll() is None and time.monotonic() < end:
        time.sleep(LOOK)
    kill_group(command.pid)
    command.wait()
