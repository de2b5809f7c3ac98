"""Worker processes that score completions, each under a deadline."""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections.abc import Collection
from typing import Any

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.rewards.base import Reward, reward_name
from steer_lightning.rewards.wire import TASK, receive_frame, send_frame
from steer_lightning.types import Completion

log = logging.getLogger(__name__)

KEEPER = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from steer_lightning.rewards.keeper import main; main(int(sys.argv[2]))"
)
"""Not `-m`, which would let a file of the current folder stand in for a standard module."""

GRACE = 10.0
"""Seconds that a keeper has to end."""

PATIENCE = 60.0
"""Seconds beyond the deadline after which a keeper that does not answer is taken for dead."""


class RewardPool:
    """Scores completions in processes that persist over the run.

    A completion that takes longer than the deadline has its worker killed, not signalled: nothing
    that runs in a worker can hold the training. The rest of the batch is scored by the others.
    Scoring begins while other completions are still being sampled.

    Args:
        num_workers: Processes; each is forked when it is first needed, and costs some megabytes.
        deadline: Seconds of wall-clock time for one completion and one reward.
        memory_mb: What a worker may allocate beyond what it starts with, in 2^20 bytes; Linux only.

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
        self._rewards: list[bytes] = []
        self._names: list[str] = []
        self._end: weakref.finalize[..., RewardPool] | None = None
        self._connection: socket.socket | None = None
        self._count = 0
        self._open: dict[int, bytes] = {}  # tasks without an answer yet
        self._answers: dict[int, dict[str, Any]] = {}

    def why_not(self, reward: Reward) -> str:
        """Why a reward can't run in a worker; empty if it can."""
        if not hasattr(os, "fork"):
            return "this system can't fork processes"
        home = reward if hasattr(reward, "__qualname__") else type(reward)
        if home.__module__ == "__main__":
            return "it is defined in the script itself, which a worker can't import"
        try:
            pickle.dumps(reward)
        except Exception as error:  # a user's __getstate__ may raise anything; it is told
            return f"it can't be pickled ({error})"
        return ""

    def register(self, reward: Reward) -> int:
        """Adds a reward, before or after the start; its number is what `submit` takes."""
        self.close()  # the keeper loads rewards at its start
        self._rewards.append(pickle.dumps(reward))
        self._names.append(reward_name(reward))
        return len(self._rewards) - 1

    def start(self) -> None:
        """Starts the keeper, if it does not run; it loads the rewards while others go on."""
        if self._end is not None:
            return
        ours, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", KEEPER, json.dumps(path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the training process
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        ours.settimeout(self.deadline + PATIENCE)
        self._connection = ours
        self._end = weakref.finalize(self, end_keeper, process, ours)
        settings = {
            "rewards": self._rewards,
            "num_workers": self.num_workers,
            "deadline": self.deadline,
            "memory_bytes": self.memory_mb << 20,
        }
        send_frame(ours, pickle.dumps(settings))

    def submit(self, reward: int, completion: Completion) -> int:
        """Hands in one completion for one reward.

        Returns:
            The number of the task, for `collect`.
        """
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
            For each `score` (float or None), `outcome` and `detail`, see `worker.judge`, and
            `seconds` of wall-clock time; `outcome` may also be `timed_out`.

        Raises:
            ConfigError: If a worker could not load a reward.
            RuntimeError: If the keeper dies twice without an answer in between.
        """
        restarted = False
        while any(task not in self._answers for task in tasks):
            answer = self._receive()
            if answer is not None:
                self._open.pop(answer["id"], None)
                self._answers[answer["id"]] = answer
                restarted = False
            elif restarted:
                self.close()
                raise RuntimeError(
                    "the process that keeps the reward workers died twice; its last words are above"
                )
            else:
                restarted = True
                self._restart()
        return [self._answers.pop(task) for task in tasks]

    def close(self) -> None:
        """Ends all processes."""
        if self._end is None:
            return
        self._end()
        self._end = self._connection = None
        self._open.clear()
        self._answers.clear()

    def _send(self, frame: bytes) -> None:
        assert self._connection is not None
        try:
            send_frame(self._connection, frame)
        except OSError:  # the keeper has died: `collect` notices, and hands all open tasks in again
            log.debug("the keeper of the reward workers is gone")

    def _receive(self) -> dict[str, Any] | None:
        """The next answer; None if the keeper has died or hangs."""
        assert self._connection is not None
        try:
            frame = receive_frame(self._connection)
        except OSError:  # a time-out, too
            return None
        if frame is None:
            return None
        answer: dict[str, Any] = json.loads(frame)
        if "unloadable" in answer:
            self.close()
            raise ConfigError(
                "model.rewards",
                UNKNOWN,
                rule=f"a reward worker can't load {' or '.join(self._names)}",
                why=answer["unloadable"].strip(),
                fix="Give it an attribute in_process = True to run it in the training process",
            )
        return answer

    def _restart(self) -> None:
        """Starts a keeper in place of one that has died, with all open tasks."""
        log.warning("the process that keeps the reward workers has died: it is started anew")
        tasks, answers = dict(self._open), dict(self._answers)
        self.close()
        self._open, self._answers = tasks, answers
        self.start()
        for task in tasks.values():
            self._send(task)

    def __getstate__(self) -> dict[str, Any]:
        """Without processes: a copy starts its own."""
        return {
            **self.__dict__,
            **{"_end": None, "_connection": None, "_open": {}, "_answers": {}},
        }


def end_keeper(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Closes the connection, at which the keeper kills its workers and ends; or kills it."""
    connection.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:  # its workers die with it
        process.kill()
        process.wait()
