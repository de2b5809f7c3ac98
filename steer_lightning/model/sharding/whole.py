"""The whole base in each process; what the other ways change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Layers = Callable[[Any], torch.nn.ModuleList]
"""Finds the decoder layers of a model."""


class Sharding:
    """Each process holds the whole base, and nothing of it is ever sent."""

    shards = False
    """Whether a process holds some of the base alone."""
    why_not_packed: str | None = None
    """Why an update must go through the model's own output, if it must."""
    why_not_generate: str | None = None
    """Why transformers' `generate` can't be used, if it can't."""

    def build(self, load: Callable[[], Any], make_empty: Callable[[], Any], layers: Layers) -> Any:
        """Makes the model.

        Args:
            load: Returns it with its weights, on the CPU.
            make_empty: Returns it without, on torch's meta device.
            layers: Finds its decoder layers.

        Returns:
            The frozen model, in eval mode.
        """
        return load().requires_grad_(False).eval()

    without_gradients: Callable[..., AbstractContextManager[Any]] = torch.inference_mode
    """Makes the context in which completions are sampled."""
    for_rollouts: Callable[..., AbstractContextManager[Any]] = nullcontext
    """Takes the model; in the context that it makes, each process may make as many forward passes
    as it likes."""
    most_passes: Callable[..., int] = int
    """Takes how many forward and backward passes this process needs; returns how many all must
    make."""

    @property
    def in_step(self) -> bool:
        """Whether each pass of a rollout takes all processes, so that none may begin it anew."""
        return False

    def full_tensors(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights and buffers by name, one after the other; every process must take them."""
        yield from model.state_dict().items()

    def num_parameters(self, model: Any) -> int:
        """Parameters of the whole base."""
        return sum(p.numel() for p in model.parameters() if not p.requires_grad)
