"""A worker of the reward pool, which scores one completion after another until it is ended."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import signal
import socket
import sys
import threading
import traceback
import zlib
from collections.abc import Sequence
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.rewards.base import (
    Reward,
    check_scores,
    outcome_of,
    reward_name,
    wrong_return,
)
from steer_lightning.rewards.pool_frames import TASK, receive_frame, send_frame
from steer_lightning.rewards.pool_memory import cap_memory
from steer_lightning.types import Completion

MAX_DETAIL = 4000
"""Maximum number of characters of a reported traceback: an exception may hold megabytes."""


def work(connection: socket.socket, rewards: Sequence[Reward], memory_bytes: int) -> None:
    """Answers tasks until the connection is closed.

    Args:
        connection: Connection to the keeper.
        rewards: Rewards, in the order of the positions in the tasks.
        memory_bytes: Number of bytes that may be allocated in addition to the current ones.
    """
    prepare_process(memory_bytes)
    own = os.getpid()
    while (frame := receive_frame(connection)) is not None:
        _, index = TASK.unpack_from(frame)
        answer = judge(rewards[index], frame[TASK.size :])
        if os.getpid() != own:  # the reward has forked, and its copy has returned here, too
            os._exit(0)
        # processes that a reward leaves behind would accumulate, so the worker is replaced
        retire = answer["outcome"] == "crashed" or has_children() or threading.active_count() > 1
        try:
            send_frame(connection, json.dumps({**answer, "retire": retire}).encode())
        except OSError:  # the keeper is gone, and so is the run
            return


def prepare_process(memory_bytes: int) -> None:
    """Caps memory, and ignores signals that are meant for the training process."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cap_memory(memory_bytes)


def judge(reward: Reward, pickled: bytes) -> dict[str, Any]:
    """Scores one completion.

    Returns:
        `score`, `outcome` and `detail`. The outcome is `scored`, `unscored`, that of a verdict,
        `crashed` with the traceback as detail, or `wrong_return` with the message as detail.
    """
    completion: Completion = pickle.loads(pickled)  # comes from the training process
    seed = zlib.crc32(completion.text.encode("utf-8", "replace"))
    # a reward with random numbers scores the same text in the same way in any worker
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    answer: dict[str, Any] = {"score": None, "detail": ""}
    try:
        returned = reward([completion])
    except BaseException:  # catches everything that a reward may raise, sys.exit included
        detail = traceback.format_exc(limit=-8)[-MAX_DETAIL:]
        return {**answer, "outcome": "crashed", "detail": detail}
    try:
        (score,) = check_scores(reward_name(reward), returned, 1)
    except ConfigError as error:
        return {**answer, "outcome": "wrong_return", "detail": wrong_return(error)}
    return {**answer, "score": score, "outcome": outcome_of(score)}


def has_children() -> bool:
    """Returns whether children of this process still run, and reaps those that have ended."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    except ChildProcessError:
        return False
