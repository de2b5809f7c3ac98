"""A worker of the reward pool, which scores one completion after the other until it is ended."""

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
"""Characters of a traceback that are told: an exception may carry megabytes."""


def work(connection: socket.socket, rewards: Sequence[Reward], memory_bytes: int) -> None:
    """Answers tasks until the connection is closed.

    Args:
        connection: Connection to the keeper.
        rewards: Rewards, in the order of the positions that tasks name.
        memory_bytes: Number of bytes that may be allocated beyond those of now.
    """
    prepare_process(memory_bytes)
    own = os.getpid()
    while (frame := receive_frame(connection)) is not None:
        _, index = TASK.unpack_from(frame)
        answer = judge(rewards[index], frame[TASK.size :])
        if os.getpid() != own:  # the reward has forked, and the copy came back from it, too
            os._exit(0)
        # what a reward leaves behind would pile up over a run: such a worker is replaced
        retire = answer["outcome"] == "crashed" or has_children() or threading.active_count() > 1
        try:
            send_frame(connection, json.dumps({**answer, "retire": retire}).encode())
        except OSError:  # the keeper is gone, and with it the run
            return


def prepare_process(memory_bytes: int) -> None:
    """Caps memory, and leaves signals that are meant for the training process to it."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cap_memory(memory_bytes)


def judge(reward: Reward, pickled: bytes) -> dict[str, Any]:
    """Scores one completion.

    Returns:
        `score`, `outcome` and `detail`; the outcome is `scored`, `unscored`, a
        verdict's own, `crashed` with the traceback as detail, or `wrong_return` with the message.
    """
    completion: Completion = pickle.loads(pickled)  # from the training process: text as data
    seed = zlib.crc32(completion.text.encode("utf-8", "replace"))
    random.seed(seed)  # a reward that draws scores the same text alike, in whichever worker
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    answer: dict[str, Any] = {"score": None, "detail": ""}
    try:
        returned = reward([completion])
    except BaseException:  # whatever a reward does ends here, sys.exit included
        detail = traceback.format_exc(limit=-8)[-MAX_DETAIL:]
        return {**answer, "outcome": "crashed", "detail": detail}
    try:
        (score,) = check_scores(reward_name(reward), returned, 1)
    except ConfigError as error:
        return {**answer, "outcome": "wrong_return", "detail": wrong_return(error)}
    return {**answer, "score": score, "outcome": outcome_of(score)}


def has_children() -> bool:
    """Tells whether children of this process still run, and collects those that have ended."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    except ChildProcessError:
        return False
