"""Helpers that make processes run equal numbers of forward passes, even if they need fewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steer_lightning.system.collectives import total


@contextmanager
def kept_in_step(model: Any, group: Any = None) -> Iterator[None]:
    """Keeps the forward passes of processes in step, since gathering the weights needs all of them.

    A process that is done continues with passes over a single token until the last process is done.

    Args:
        model: Sharded model; every forward pass goes through its `__call__`.
        group: Group of the processes that share the model.
    """

    def announce(module: torch.nn.Module, args: object) -> None:
        total(1, group)

    # the hook must run before the model's own hook, which gathers
    handle = model.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    while total(0, group):
        one_token(model)


@torch.no_grad()
def one_token(model: Any) -> None:
    """Runs the smallest forward pass, over a single token."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
