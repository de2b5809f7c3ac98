"""Connects the processes that share an evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from steer_lightning.strategy import HOURS, MINUTES
from steer_lightning.system.collectives import first_tells, rank, world_size
from steer_lightning.system.peer_watch import PeerWatch, all_arrive


@contextmanager
def connected_processes() -> Iterator[None]:
    """Connects the processes that torchrun has started, while the block runs.

    A single process needs no connection. If the block fails in one of several processes, the others
    are informed, since otherwise they would only wait.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend, host = "nccl" if torch.cuda.is_available() else "gloo", os.environ["MASTER_ADDR"]
    with all_arrive(MINUTES, host):
        dist.init_process_group(backend, timeout=timedelta(hours=HOURS))
        watch = PeerWatch(rank(), world_size(), host, first_tells)
    try:
        yield
    except BaseException as error:
        watch.leave(error)
        raise
    watch.leave()
    dist.destroy_process_group()
