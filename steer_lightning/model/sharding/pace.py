"""Equal numbers of forward passes for processes that need unequal ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steer_lightning.system.collectives import total


@contextmanager
def in_step(model: Any, group: Any = None) -> Iterator[None]:
    """Lets processes pass forward in step: each pass gathers weights, which takes all of them.

    A process that is done goes on with passes of a single token until the last one is done.

    Args:
        model: Sharded; every forward pass goes through its `__call__`.
        group: The processes that share it.
    """

    def announce(module: torch.nn.Module, args: object) -> None:
        total(1, group)

    # before the model's own hook, which gathers
    handle = model.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    while total(0, group):
        one_token(model)


@torch.no_grad()
def one_token(model: Any) -> None:
    """The smallest forward pass."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
