"""Starts the command line in processes that have imported everything already.

To import torch, Lightning and transformers takes several times as long as a run of a tiny model. So
a server imports them once, and each start is a fork of it: the real command line all the same, in a
process of its own, with its own folder, environment, output, signals and status.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "steer_lightning.cli.fit",
        "steer_lightning.cli.evaluate",
        "transformers.models.qwen2.modeling_qwen2",
        "bitsandbytes",
        "datasets",
        "matplotlib.backends.backend_agg",
    ]
)

Run = Callable[[], None]


class Started:
    """One process, as `subprocess.Popen` has it.

    Args:
        words: Of the command line.
        folder: In which it is started.
        environment: The whole of it.
        run: A function of a module that takes the place of the command line.
        network: Network namespace in which it is started.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        run: Run | None = None,
        network: str | None = None,
    ) -> None:
        self._said = [tempfile.mkstemp() for _ in range(2)]
        self.words = list(words)
        paths = tuple(path for _, path in self._said)
        arguments = (self.words, str(folder), dict(environment), paths, run, network)
        self._process = FORKS.Process(target=_become, args=arguments, daemon=True)
        self._process.start()
        for descriptor, _ in self._said:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its status, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """As by `kill`."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """It has no say in this."""
        self.send_signal(signal.SIGKILL)

    @property
    def said(self) -> str:
        """What it has written so far, to its output and then to its errors."""
        return "".join(Path(path).read_text(errors="replace") for _, path in self._said)

    def end(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Waits for its end; at the time-out it is killed, and that is an error."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            self.kill()
            self._process.join()
        out, err = (Path(path).read_text(errors="replace") for _, path in self._said)
        for _, path in self._said:
            os.unlink(path)
        if status is None:
            raise subprocess.TimeoutExpired(self.words, timeout, out, err)
        return subprocess.CompletedProcess(self.words, status, out, err)


def _become(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    said: tuple[str, str],
    run: Run | None,
    network: str | None,
) -> None:
    """Turns this process into one that was started with the command line."""
    if network is not None:
        with open(f"/var/run/netns/{network}") as file:
            if ctypes.CDLL(None).setns(file.fileno(), 0):
                raise OSError(f"can't enter the network namespace {network}")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    sys.argv = ["steer-lightning", *words]
    try:
        if run is not None:
            run()
        else:
            runpy.run_module("steer_lightning", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a fork passes by


def command_line(
    *words: str, folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end.

    Args:
        words: Behind `steer-lightning`.
        folder: In which it is started.
        timeout: In seconds.
    """
    return start(*words, folder=folder).end(timeout)


def start(*words: str, folder: Path, run: Run | None = None, **environment: str) -> Started:
    """Starts it.

    Args:
        words: Behind `steer-lightning`.
        folder: In which it is started.
        run: See `Started`.
        environment: Further variables.
    """
    return Started(words, folder, {**os.environ, "OMP_NUM_THREADS": "1", **environment}, run)


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def node(
    *words: str,
    folder: Path,
    processes: int,
    number: int = 0,
    nodes: int = 1,
    first: tuple[str, int] | None = None,
    run: Run | None = None,
    network: str | None = None,
    **environment: str,
) -> list[Started]:
    """Starts the processes of a machine with the variables that torchrun sets.

    No launcher stands behind them: whoever is to end with another one must see to it by itself.

    Args:
        words: Of the command line.
        folder: In which they are started.
        processes: Of this machine.
        number: Of this machine.
        nodes: Machines.
        first: Address and port of the first process; default: a free one of this machine.
        run: See `Started`.
        network: See `Started`.
        environment: Further variables.
    """
    host, port = first or ("127.0.0.1", free_port())
    same = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "GROUP_RANK": str(number)}
    same |= {"WORLD_SIZE": str(nodes * processes), "LOCAL_WORLD_SIZE": str(processes)}
    same |= {"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1", **environment}
    return [
        Started(
            words,
            folder,
            {**os.environ, **same, "RANK": str(number * processes + k), "LOCAL_RANK": str(k)},
            run,
            network,
        )
        for k in range(processes)
    ]


def all_end(
    processes: Sequence[Started], timeout: float = 120
) -> list[subprocess.CompletedProcess[str]]:
    """Waits for all; whoever has not ended at the time-out is killed, and that is an error."""
    deadline = time.monotonic() + timeout
    try:
        return [process.end(max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
