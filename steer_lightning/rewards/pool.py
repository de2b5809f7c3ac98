"""Worker processes that score completions, each under a deadline."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.rewards.base import Reward, reward_name
from steer_lightning.rewards.pool_frames import TASK, UNLOADABLE, receive_frame, send_frame
from steer_lightning.system.printable import indented
from steer_lightning.types import Completion

log = logging.getLogger(__name__)

KEEPER = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from steer_lightning.rewards.pool_keeper import main; main(*map(int, sys.argv[2:]))"
)
"""Without the current folder, where a file json.py would replace the standard module."""

MARK = "STEER_LIGHTNING_REWARD_POOL"
"""Environment variable of all processes of a pool, by which they can be found."""

GRACE = 10.0
"""Seconds within which a keeper must end."""

LOADING = 600.0
"""Seconds within which a keeper must load the rewards and warm them up."""

PATIENCE = 60.0
"""Seconds after the deadline at which a keeper that does not answer is considered dead. While tasks
are open, each worker answers within the deadline, however many tasks wait."""

IN_PROCESS = "Give it an attribute in_process = True to run it in the training process"
"""Remedy for a reward that no worker can load."""

KEEPERS = count()


class RewardPool:
    """Scores completions in processes that persist during the run.

    If a completion takes longer than the deadline, its worker is killed, so no code in a worker can
    block the training. The other workers score the rest of the batch. Scoring begins while other
    completions are still being sampled.

    Args:
        num_workers: Number of processes; each one is forked when it is first needed, and takes a
            few megabytes.
        deadline: Maximum number of seconds, in wall-clock time, for one completion and one reward.
        memory_mb: Memory that a worker may allocate in addition to what it has at the start, in
            MiB; Linux only.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, num_workers: int = 4, deadline: float = 5.0, memory_mb: int = 1024) -> None:
        for key, value in (("num_workers", num_workers), ("memory_mb", memory_mb)):
            if value < 1:
                raise ConfigError(f"model.reward_pool.{key}", value, rule="must be at least 1")
        if not 0 < deadline < float("inf"):
            raise ConfigError(
                "model.reward_pool.deadline", deadline, rule="must be a number of seconds above 0"
            )
        self.num_workers, self.deadline, self.memory_mb = num_workers, deadline, memory_mb
        self._host: RewardPool | None = None
        self._numbers: list[int] = []  # of this pool's rewards at its host
        self._rewards: list[bytes] = []
        self._names: list[str] = []
        self._end: weakref.finalize[..., RewardPool] | None = None
        self._connection: socket.socket | None = None
        self._is_ready = False
        self._count = 0
        self._open: dict[int, bytes] = {}  # tasks without an answer yet
        self._answers: dict[int, dict[str, Any]] = {}

    def why_not(self, reward: Reward) -> str:
        """Returns the reason why a reward can't run in a worker; empty if it can."""
        if not hasattr(os, "fork"):
            return "this system can't fork processes"
        home = reward if hasattr(reward, "__qualname__") else type(reward)
        if home.__module__ == "__main__":
            return "it is defined in the script itself, which a worker can't import"
        try:
            pickle.dumps(reward)
        except Exception as error:  # a user's __getstate__ may raise anything
            return f"it can't be pickled ({error})"
        return ""

    def register(self, reward: Reward) -> int:
        """Adds a reward, before or after the start; returns its number, for `submit`.

        The processes start anew with it, and open tasks, such as those of other pools that have
        handed over to the same host, begin again.
        """
        return self._register(pickle.dumps(reward), reward_name(reward))

    def _register(self, pickled: bytes, name: str) -> int:
        if self._host is not None:
            self._numbers.append(self._host._register(pickled, name))
            return len(self._numbers) - 1
        self._rewards.append(pickled)
        self._names.append(name)
        self._end_processes()  # the keeper loads the rewards when it starts
        if self._open:
            self._start_again()
        return len(self._rewards) - 1

    def emptied(self, num_beside: int = 1) -> RewardPool:
        """Returns a pool with the same settings, and without rewards.

        Args:
            num_beside: Number of such pools, which share the number of workers.
        """
        pool = copy.copy(self)
        pool._rewards, pool._names = [], []
        pool.num_workers = max(1, self.num_workers // num_beside)
        return pool

    def hand_over(self, host: RewardPool) -> None:
        """Lets another pool score what this one is asked for from now on, with its own processes.

        Args:
            host: Pool that several pools share. `close` of this pool does not end its processes;
                whoever has made it closes it.
        """
        self.close()
        self._host = host
        pairs = zip(self._rewards, self._names, strict=True)
        self._numbers = [host._register(pickled, name) for pickled, name in pairs]

    def start(self) -> None:
        """Starts the keeper if it is not running; it loads the rewards in the background.

        Raises:
            ConfigError: If called in a process of a pool.
        """
        if self._host is not None:
            self._host.start()
            return
        if self._end is not None:
            return
        refuse_inside_a_pool()
        ours, theirs = socket.socketpair()
        mark = f"{os.getpid()}-{next(KEEPERS)}."
        path = [entry or os.getcwd() for entry in sys.path]
        with theirs:
            numbers = theirs.fileno(), os.getpid()
            process = subprocess.Popen(
                [sys.executable, "-c", KEEPER, json.dumps(path), *map(str, numbers)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the training process only
                env=environment(mark),
            )
        self._connection, self._is_ready = ours, False
        ours.settimeout(LOADING)
        self._end = weakref.finalize(self, end_keeper, process, ours, mark)
        settings = {
            "rewards": self._rewards,
            "num_workers": self.num_workers,
            "deadline": self.deadline,
            "memory_bytes": self.memory_mb << 20,
        }
        send_frame(ours, pickle.dumps(settings))

    def submit(self, reward: int, completion: Completion) -> int:
        """Submits one completion for one reward.

        Returns:
            The number of the task, for `collect`.
        """
        if self._host is not None:
            return self._host.submit(self._numbers[reward], completion)
        self.start()
        self._count += 1
        task = TASK.pack(self._count, reward) + pickle.dumps(completion)
        self._open[self._count] = task
        self._send(task)
        return self._count

    def collect(self, tasks: Collection[int]) -> list[dict[str, Any]]:
        """Waits for answers.

        Args:
            tasks: Numbers from `submit`.

        Returns:
            An answer for each task, with `score` (float or None), `outcome` and `detail`, as in
            `pool_worker.judge`, and `seconds` of wall-clock time; `outcome` may also be
            `timed_out`.

        Raises:
            ConfigError: If a worker could not load the reward of a task.
            RuntimeError: If the keeper dies twice without an answer in between.
        """
        if self._host is not None:
            return self._host.collect(tasks)
        restarted = False
        missing = {task for task in tasks if task not in self._answers}
        while missing:
            answer = self._receive()
            if answer is not None:
                if self._open.pop(answer["id"], None) is not None:  # the others have been forgotten
                    self._answers[answer["id"]] = answer
                    missing.discard(answer["id"])
                restarted = False
            elif restarted:
                for task in tasks:
                    self.forget(task)
                if not self._open and not self._answers:  # else others try again
                    self.close()
                raise RuntimeError(
                    "the process that manages the reward workers died twice; its last output is "
                    "above"
                )
            else:
                restarted = True
                self._restart()
        answers = [self._answers.pop(task) for task in tasks]
        self._refuse_unloadable(answers)
        return answers

    def forget(self, task: int) -> None:
        """Drops a task whose answer is not needed; it may still be scored."""
        if self._host is not None:
            self._host.forget(task)
            return
        self._open.pop(task, None)
        self._answers.pop(task, None)

    def close(self) -> None:
        """Ends all processes, and forgets all tasks."""
        self._end_processes()
        self._open.clear()
        self._answers.clear()

    def _end_processes(self) -> None:
        if self._end is not None:
            self._end()
        self._end = self._connection = None

    def _send(self, frame: bytes) -> None:
        assert self._connection is not None
        try:
            send_frame(self._connection, frame)
        except OSError:  # the keeper has died: `collect` notices, and submits all open tasks again
            log.debug("the keeper of the reward workers is gone")
            with suppress(OSError):  # half a frame may have been sent, so nothing may follow
                self._connection.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> dict[str, Any] | None:
        """Returns the next answer; None if the keeper has died or hangs."""
        frame = self._receive_frame()
        if frame is not None and not self._is_ready and "ready" in json.loads(frame):
            assert self._connection is not None
            self._connection.settimeout(self.deadline + PATIENCE)
            self._is_ready = True
            frame = self._receive_frame()
        answer: dict[str, Any] | None = None if frame is None else json.loads(frame)
        return answer

    def _refuse_unloadable(self, answers: Sequence[dict[str, Any]]) -> None:
        """Raises a ConfigError if a reward was asked for that could not be loaded.

        Other rewards are scored all the same, since they may be those of other runs.
        """
        for answer in answers:
            if answer["outcome"] == UNLOADABLE:
                raise ConfigError(
                    "model.rewards",
                    UNKNOWN,
                    rule=f"a reward worker can't load {self._names[answer['reward']]}",
                    why=indented(answer["detail"].strip().removesuffix(".")),
                    fix="" if answer["is_told"] else IN_PROCESS,
                )

    def _receive_frame(self) -> bytes | None:
        assert self._connection is not None
        try:
            return receive_frame(self._connection)
        except OSError:  # includes a time-out
            return None

    def _restart(self) -> None:
        """Replaces a keeper that has died by a new one."""
        log.warning("the process that manages the reward workers has died and is being restarted")
        self._end_processes()
        self._start_again()

    def _start_again(self) -> None:
        """Starts a keeper, and submits all open tasks to it."""
        self.start()
        for task in self._open.values():
            self._send(task)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without processes; a copy starts its own."""
        return {
            **self.__dict__,
            **{"_end": None, "_connection": None, "_open": {}, "_answers": {}},
        }


def refuse_inside_a_pool() -> None:
    """Prevents a pool from starting a pool, whose keeper would start another one, and so on.

    Raises:
        ConfigError: If called in a process of a pool.
    """
    if MARK not in os.environ:
        return
    raise ConfigError(
        "model.rewards",
        UNKNOWN,
        rule="a process of a reward pool must not start a run or a pool itself",
        why="The pool imports the modules of its rewards, and one of these modules, or a reward "
        "while it scores, starts a run or a pool",
        fix="Put the code that a script runs under `if __name__ == '__main__':`, or put the "
        "rewards into a module of their own",
    )


def environment(mark: str) -> dict[str, str]:
    """Makes the environment of the keeper: one thread, and the same order of sets in each run."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {"PYTHONHASHSEED": "0", **os.environ, **threads, MARK: mark}


def end_keeper(process: subprocess.Popen[bytes], connection: socket.socket, mark: str) -> None:
    """Closes the connection, which ends the keeper and its workers; otherwise kills the keeper."""
    connection.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:  # the workers die with the keeper
        process.kill()
        process.wait()
    if process.returncode:  # processes that its workers have started have no parent now
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Finds the processes of a pool by the start of its mark; Linux only."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if f"\0{MARK}={mark}".encode() in b"\0" + path.read_bytes():
                found.append(int(path.parent.name))
    return found
