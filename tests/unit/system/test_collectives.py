"""What processes tell each other, and that one alone tells itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from steer_lightning.system import collectives

TWO = """
import os, sys
from contextlib import contextmanager
import torch
import torch.distributed as dist
from steer_lightning.system.collectives import *

rank_of_this = 1 if os.fork() == 0 else 0
store = f"file://{sys.argv[1]}"
dist.init_process_group("gloo", init_method=store, rank=rank_of_this, world_size=2)
try:
    assert (rank(), world_size(), is_distributed()) == (rank_of_this, 2, True)
    assert device() == torch.device("cpu")
    me = rank() + 1  # 1 and 2
    alone = [torch.full((2, 3), float(me))]
    several = [torch.full((2,), float(me)), torch.full((2, 2), 10.0 * me)]
    same = [*several]
    sum_gradients(alone)
    sum_gradients(several)
    assert torch.equal(alone[0], torch.full((2, 3), 3.0))
    assert torch.equal(several[0], torch.full((2,), 3.0))
    assert torch.equal(several[1], torch.full((2, 2), 30.0))
    assert all(x is y for x, y in zip(same, several)), "in place"
    assert gather_objects({"me": me}) == [{"me": 1}, {"me": 2}]
    assert first_tells(("I am", me)) == ("I am", 1)
    assert (largest(7 * me), total(7 * me), largest(-me), total(0)) == (14, 21, -1, 0)

    names = []

    @contextmanager
    def door(name):
        names.append(name)
        yield takes_part

    def through_the_door():
        several = [torch.full((2,), float(me)), torch.full((2,), 10.0 * me)]
        sum_gradients(several)
        found = [several[0][0].item(), gather_objects(me), first_tells(me), largest(me), total(me)]
        return [*found, names]

    with passing(door):
        takes_part = True
        assert through_the_door() == [3.0, [1, 2], 1, 2, 3, names]
        assert names == ["sum_gradients", "gather_objects", "first_tells", "MAX", "SUM"]
        takes_part = False
        assert through_the_door() == [float(me), [me], me, me, me, names]
        assert len(names) == 10
    assert (total(me), len(names)) == (3, 10), "the door is gone"
finally:
    dist.destroy_process_group()
if rank_of_this:
    os._exit(0)
_, status = os.wait()
assert status == 0
print("both")
"""


def test_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "both\n", done.stderr


def test_one_process_tells_itself() -> None:
    gradient = torch.arange(3.0)
    collectives.sum_gradients([gradient])
    assert gradient.tolist() == [0.0, 1.0, 2.0]
    own = {"a": [1]}
    (found,) = collectives.gather_objects(own)
    assert found is own
    assert collectives.first_tells(own) is own
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    assert (collectives.largest(-3), collectives.total(5)) == (-3, 5)
    assert not collectives.is_distributed()
