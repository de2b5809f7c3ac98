"""Groups of processes, and when layers are gathered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from steer_lightning.model.policy import Policy
from steer_lightning.strategy import SteeringFSDP2, SteeringStrategy
from tests.started import all_end, node

pytestmark = pytest.mark.multi_process


def connect(strategy: SteeringStrategy, processes: int) -> SteeringStrategy:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(accelerator="cpu", devices=processes, strategy=strategy, **quiet)
    strategy.setup_environment()
    return strategy


def tell_groups() -> None:
    """Members and hours of the group of all, and of the group that shares one copy of the base."""
    strategy = connect(SteeringFSDP2(shard_size=2, timeout_hours=5), 4)
    for group in (dist.group.WORLD, strategy.sharding().mesh.get_group()):
        backend: Any = group._get_backend(torch.device("cpu"))
        hours = backend.options._timeout.total_seconds() / 3600
        print(json.dumps([dist.get_process_group_ranks(group), hours]))
    strategy.teardown()


def test_every_group_waits_as_long_as_is_asked_for(tmp_path: Path) -> None:
    for rank, done in enumerate(all_end(node(folder=tmp_path, processes=4, run=tell_groups))):
        assert done.returncode == 0, done.stderr
        every, shard = map(json.loads, done.stdout.splitlines()[-2:])
        assert every == [[0, 1, 2, 3], 5.0]
        first = rank // 2 * 2
        assert shard == [[first, first + 1], 5.0]


class Gathers(TorchDispatchMode):
    """Counts gatherings of weights."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "c10d" and "allgather" in func.__name__
        return func(*args, **(kwargs or {}))


def trace_a_pass() -> None:
    """How many gatherings have begun when the embedding and each layer begin to work."""
    strategy = connect(SteeringFSDP2(), 2)
    policy = Policy(sys.argv[1])
    policy.load(strategy.sharding())
    begun: list[int] = []
    with Gathers() as gathers, torch.no_grad():
        for module in (policy.model.get_input_embeddings(), *policy.layers):
            module.register_forward_pre_hook(lambda *_: begun.append(gathers.count))
        policy.logits(torch.ones(1, 3).long(), torch.ones(1, 3).long(), 1)
    print(begun)
    strategy.teardown()


def test_layers_are_gathered_while_the_one_before_works(tmp_path: Path, tiny_base: str) -> None:
    for done in all_end(node(tiny_base, folder=tmp_path, processes=2, run=trace_a_pass)):
        assert done.returncode == 0, done.stderr
        # embeddings and head, this layer and the next one; behind the last one there is none
        assert json.loads(done.stdout.splitlines()[-1]) == [2, 3, 4, 4]
