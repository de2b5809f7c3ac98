"""The keeper of the reward pool: a process that forks workers and kills those that take too long.

The keeper loads the rewards once, so that a new worker costs a fork, not an import. After loading,
it has one thread and runs no code of the rewards itself, so it always answers. When the training
process ends, for whatever reason, the keeper kills all workers and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from steer_lightning.errors import ConfigError
from steer_lightning.rewards.pool_frames import TASK, UNLOADABLE, read_frame, write_frame
from steer_lightning.rewards.pool_worker import work
from steer_lightning.system.printable import indented
from steer_lightning.system.process_family import (
    PR_SET_PDEATHSIG,
    adopt_orphans,
    control_process,
    kill_group,
    kill_orphans,
)

BEAT = 0.2
"""Seconds between two checks that the training process is alive, while rewards are loaded."""

MAX_ANSWER = 2**20
"""Maximum number of bytes of a worker's answer: a reward that writes into the connection must not
fill the memory."""


class Worker:
    """A forked process and the connection to it.

    Args:
        keeper: Keeper that has forked the process.
        pid: Id of the process, and of its session.
        connection: The keeper's end of the connection.
    """

    def __init__(self, keeper: Keeper, pid: int, connection: socket.socket) -> None:
        self.keeper, self.pid, self.connection = keeper, pid, connection

    async def open(self) -> None:
        """Makes the connection asynchronous."""
        self.reader, self.writer = await asyncio.open_connection(sock=self.connection, limit=2**20)

    def kill(self) -> str:
        """Kills the worker and all its processes; returns how it had ended, if it had."""
        self.writer.close()
        found, status = os.waitpid(self.pid, os.WNOHANG)
        kill_group(self.pid)
        if not found:  # one that is ending keeps its own status, whatever signal it gets
            _, status = os.waitpid(self.pid, 0)
        self.keeper.workers.discard(self)
        self.keeper.kill_orphans()
        code = os.waitstatus_to_exitcode(status)
        if not found and code == -signal.SIGKILL:  # by us
            return "closed its connection"
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


class Keeper:
    """Passes tasks to workers, and answers to the training process.

    Args:
        settings: `rewards` (pickled), `num_workers`, `deadline` (seconds), `memory_bytes`.
        upstream: Connection to the training process.
        writer: Writer of the same connection.
    """

    def __init__(
        self, settings: dict[str, Any], upstream: socket.socket, writer: asyncio.StreamWriter
    ) -> None:
        self.settings, self.upstream, self.writer = settings, upstream, writer
        self.tasks: asyncio.Queue[bytes] = asyncio.Queue()
        self.workers: set[Worker] = set()
        self.failures: dict[int, dict[str, Any]] = {}  # by the number of the reward
        self.rewards = [self._load(*pair) for pair in enumerate(settings["rewards"])]

    def _load(self, number: int, pickled: bytes) -> Any:
        """Returns a reward that is ready to score; None if that fails, which is noted."""
        try:
            reward = pickle.loads(pickled)
            warm_up = getattr(reward, "warm_up", None)
            if warm_up is not None:
                warm_up()
        except BaseException as error:  # a user's code may raise anything, sys.exit included
            is_told = isinstance(error, ConfigError)  # its message already says what to do
            detail = str(error) if is_told else traceback.format_exc(limit=-4)
            answer = {"score": None, "outcome": UNLOADABLE, "seconds": 0.0}
            self.failures[number] = {**answer, "detail": detail, "is_told": is_told}
            return None
        return reward

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Accepts tasks until the training process closes the connection."""
        # an exception in a seat is a bug; it ends the keeper, and the training process notices
        async with _Beside([self._seat() for _ in range(self.settings["num_workers"])]):
            while (task := await read_frame(reader)) is not None:
                number, reward = TASK.unpack_from(task)
                if reward in self.failures:
                    answer = {**self.failures[reward], "id": number, "reward": reward}
                    write_frame(self.writer, json.dumps(answer).encode())
                else:
                    self.tasks.put_nowait(task)

    async def _seat(self) -> None:
        """Runs one worker after another, each as long as it lives."""
        worker: Worker | None = None
        while True:
            task = await self.tasks.get()
            end = time.monotonic() + self.settings["deadline"]
            for _ in range(2):  # a worker may have been killed from outside, so try once more
                if worker is None:
                    worker = self.fork()
                    await worker.open()
                answer = await self._ask(worker, task, end)
                if answer["retire"]:
                    how = worker.kill()
                    worker = None
                if answer["outcome"] is not None:
                    break
                answer["detail"] = f"the worker died ({how})"
            else:
                answer["outcome"] = "crashed"
            write_frame(self.writer, json.dumps(answer).encode())

    async def _ask(self, worker: Worker, task: bytes, end: float) -> dict[str, Any]:
        """Waits for the answer of a worker until `end`; the outcome is None if the worker died."""
        number, _ = TASK.unpack_from(task)
        write_frame(worker.writer, task)
        outcome, seconds = None, self.settings["deadline"]
        try:
            answered = read_frame(worker.reader, MAX_ANSWER)
            frame = await asyncio.wait_for(answered, end - time.monotonic())
        except (asyncio.TimeoutError, TimeoutError):  # the same class since Python 3.11
            frame, outcome = None, "timed_out"
        except (OSError, ValueError):  # output of a reward itself is not a frame
            frame = None
        seconds -= end - time.monotonic()
        answer = None if frame is None else decoded(frame)
        if answer is None:
            answer = {"score": None, "outcome": outcome, "detail": "", "retire": True}
        return {**answer, "id": number, "seconds": seconds}

    def fork(self) -> Worker:
        """Starts a worker, in a session of its own."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become_worker(theirs, ours)
        theirs.close()
        worker = Worker(self, pid, ours)
        self.workers.add(worker)
        return worker

    def _become_worker(self, connection: socket.socket, other: socket.socket) -> NoReturn:
        try:
            os.setsid()
            # in case the keeper is killed; its main thread, which forks, lives as long as it does
            control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
            adopt_orphans()  # so that daemons started by a reward become children of its worker
            # an end left open here would hide from the other process that its peer is gone
            for end in (other, self.upstream, *(worker.connection for worker in self.workers)):
                os.close(end.fileno()) if end.fileno() >= 0 else None
            work(connection, self.rewards, self.settings["memory_bytes"])
        except BaseException:
            sys.stderr.write(f"{indented(traceback.format_exc().rstrip())}\n")
        finally:
            os._exit(0)

    def kill_orphans(self) -> None:
        """Kills children that are not workers: processes of other sessions that workers left."""
        kill_orphans({worker.pid for worker in self.workers})

    def kill_all(self) -> None:
        """Kills all processes."""
        for worker in list(self.workers):
            kill_group(worker.pid)
            os.waitpid(worker.pid, 0)
            self.workers.discard(worker)
        self.kill_orphans()


def decoded(frame: bytes) -> dict[str, Any] | None:
    """Decodes an answer of a worker; None if a reward has written into the connection itself."""
    try:
        answer = json.loads(frame)
    except ValueError:
        return None
    if not isinstance(answer, dict) or not {"score", "outcome", "detail", "retire"} <= set(answer):
        return None
    return answer if isinstance(answer["outcome"], str) else None


class _Beside:
    """Runs coroutines during a block; a failure cancels the block, and its end cancels them."""

    def __init__(self, coroutines: list[Any]) -> None:
        self._coroutines = coroutines

    async def __aenter__(self) -> None:
        block = asyncio.current_task()
        assert block is not None
        self._tasks = [asyncio.create_task(coroutine) for coroutine in self._coroutines]
        for task in self._tasks:
            task.add_done_callback(lambda done: done.cancelled() or block.cancel())

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
            task.cancel()


async def keep(upstream: socket.socket, parent: int) -> None:
    """Serves the training process with the id `parent`."""
    reader, writer = await asyncio.open_connection(sock=upstream, limit=2**26)
    with ending_with(parent):
        first = await read_frame(reader)
        if first is None:
            return
        keeper = Keeper(pickle.loads(first), upstream, writer)
    write_frame(writer, json.dumps({"ready": True}).encode())
    try:
        await keeper.serve(reader)
    finally:
        keeper.kill_all()


@contextmanager
def ending_with(parent: int) -> Iterator[None]:
    """Kills this process and its group if its parent dies within the block.

    Loading rewards may take minutes, during which a closed connection is not noticed. A thread
    checks the parent, because the signal of Linux would already be sent when the thread that
    started this process ends. The thread ends with the block, so that no worker is forked while it
    runs.

    Args:
        parent: Id of the training process.
    """
    is_done = threading.Event()

    def look() -> None:
        while not is_done.wait(BEAT):
            if os.getppid() != parent:
                kill_group(os.getpid())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def main(descriptor: int, parent: int) -> None:
    """Runs the keeper.

    Args:
        descriptor: Descriptor of the inherited socket.
        parent: Id of the training process.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):  # the keeper ends when the training process ends
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    adopt_orphans()
    upstream = socket.socket(fileno=descriptor)
    # unlike epoll, poll has no kernel object that a forked worker would share
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())
    loop.run_until_complete(keep(upstream, parent))
    os._exit(0)
