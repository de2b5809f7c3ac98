"""Collective calls between the processes of a run; they do nothing with a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

Door = Callable[[str], AbstractContextManager[bool]]
"""Function from the name of a collective call to the block in which it is made; the block's value
tells whether the other processes take part."""

_doors: list[Door] = []


def is_distributed() -> bool:
    """Tells whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def device() -> torch.device:
    """Returns the device that tensors must be on for a collective call."""
    if is_distributed() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def passing(door: Door) -> Iterator[None]:
    """Lets all collective calls in the block pass through a door.

    Runs that share the processes use it: each call waits until the same run makes it everywhere.
    """
    _doors.append(door)
    try:
        yield
    finally:
        _doors.pop()


@contextmanager
def together(name: str) -> Iterator[bool]:
    """Gives the block in which a collective call is made.

    Args:
        name: Name of the call.

    Yields:
        Whether other processes take part; if not, the call must not be made.
    """
    if world_size() == 1:
        yield False
    elif not _doors:
        yield True
    else:
        with _doors[-1](name) as has_others:
            yield has_others


def sum_gradients(gradients: Sequence[torch.Tensor]) -> None:
    """Sums gradients over the processes, in place, with one all-reduce."""
    with together("sum_gradients") as has_others:
        if not has_others:
            return
        if len(gradients) == 1:
            dist.all_reduce(gradients[0])
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
        gradient.copy_(part.view_as(gradient))


def gather_objects(own: T) -> list[T]:
    """Returns the small objects of all processes, in the order of their numbers."""
    with together("gather_objects") as has_others:
        if not has_others:
            return [own]
        found: list[Any] = [None] * world_size()
        dist.all_gather_object(found, own)
    return found


def first_tells(own: T) -> T:
    """Returns the object of the first process, on all processes."""
    told = [own]
    with together("first_tells") as has_others:
        if has_others:
            dist.broadcast_object_list(told, 0)
    return told[0]


def largest(number: int, group: Any = None) -> int:
    """Returns the largest of the integers of all processes."""
    return _reduced(number, "MAX", group)


def total(number: int, group: Any = None) -> int:
    """Returns the sum of the integers of all processes."""
    return _reduced(number, "SUM", group)


def _reduced(number: int, how: str, group: Any) -> int:
    with together(how) as has_others:
        if not has_others:
            return number
        found = torch.tensor(number, device=device())
        dist.all_reduce(found, getattr(dist.ReduceOp, how), group=group)
    return int(found)
