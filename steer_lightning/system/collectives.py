"""Collective calls between the processes of a run; they do nothing with a single process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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


def sum_gradients(gradients: Sequence[torch.Tensor]) -> None:
    """Sums gradients over the processes, in place, with one all-reduce."""
    if world_size() == 1:
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
    if world_size() == 1:
        return [own]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, own)
    return found


def first_tells(own: T) -> T:
    """Returns the object of the first process, on all processes."""
    told = [own]
    if world_size() > 1:
        dist.broadcast_object_list(told, 0)
    return told[0]


def largest(number: int, group: Any = None) -> int:
    """Returns the largest of the integers of all processes."""
    return _reduced(number, "MAX", group)


def total(number: int, group: Any = None) -> int:
    """Returns the sum of the integers of all processes."""
    return _reduced(number, "SUM", group)


def _reduced(number: int, how: str, group: Any) -> int:
    if world_size() == 1:
        return number
    found = torch.tensor(number, device=device())
    dist.all_reduce(found, getattr(dist.ReduceOp, how), group=group)
    return int(found)
