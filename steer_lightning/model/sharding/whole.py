"""The plain placement, with the whole base in each process; the shardings are subclasses of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Layers = Callable[[Any], torch.nn.ModuleList]
"""Function that finds the decoder layers of a model."""


class Sharding:
    """Places the whole base in each process, so that nothing of it is ever sent."""

    shards = False
    """Whether a process holds only a part of the base."""
    why_not_packed: str | None = None
    """Reason why an update must go through the model's own output, or None if it need not."""
    why_not_generate: str | None = None
    """Reason why transformers' `generate` can't be used, or None if it can."""

    def build(self, load: Callable[[], Any], make_empty: Callable[[], Any], layers: Layers) -> Any:
        """Makes the model.

        Args:
            load: Function that returns the model with its weights, on the CPU.
            make_empty: Function that returns the model without weights, on torch's meta device.
            layers: Function that finds the decoder layers of the model.

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
        """Yields all weights and buffers with their names; every process must take all of them."""
        yield from model.state_dict().items()

    def num_parameters(self, model: Any) -> int:
        """Counts the parameters of the whole base."""
        return sum(p.numel() for p in model.parameters() if not p.requires_grad)
