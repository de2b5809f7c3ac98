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

    def without_gradients(self) -> AbstractContextManager[Any]:
        """In which completions are sampled."""
        return torch.inference_mode()

    def for_rollouts(self, model: Any) -> AbstractContextManager[None]:
        """While the block runs, each process may make as many forward passes as it likes."""
        return nullcontext()

    @property
    def in_step(self) -> bool:
        """Whether each pass of a rollout takes all processes, so that none may begin it anew."""
        return False

    def most_passes(self, count: int) -> int:
        """How often all processes must pass forward and backward, if this one needs `count`."""
        return count

    def full_tensors(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights and buffers by name, one after the other; every process must take them."""
        yield from model.state_dict().items()

    def num_parameters(self, model: Any) -> int:
        """Parameters of the whole base."""
        return sum(p.numel() for p in model.parameters() if not p.requires_grad)
