"""The plain placement, with the whole base in each process; the shardings are subclasses of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from steer_lightning.model.quantized_linear import num_quantized

Layers = Callable[[Any], torch.nn.ModuleList]
"""Function that finds the decoder layers of a model."""


class Sharding:
    """Places the whole base in each process, so that no weights are ever sent."""

    shards = False
    """Whether a process holds only a part of the base."""
    why_not_packed: str | None = None
    """Reason why an update must go through the model's own output, or None."""
    why_not_generate: str | None = None
    """Reason why `generate` of transformers can't be used, or None."""

    def build(self, load: Callable[[], Any], make_empty: Callable[[], Any], layers: Layers) -> Any:
        """Creates the model.

        Args:
            load: Function that returns the model with its weights, on the CPU.
            make_empty: Function that returns the model without weights, on torch's meta device.
            layers: Function that finds the decoder layers of the model.

        Returns:
            The frozen model, in eval mode.
        """
        return load().requires_grad_(False).eval()

    without_gradients: Callable[..., AbstractContextManager[Any]] = torch.inference_mode
    """Function that returns the context in which completions are sampled."""
    for_rollouts: Callable[..., AbstractContextManager[Any]] = nullcontext
    """Function from the model to a context in which each process may run any number of forward
    passes."""
    most_passes: Callable[..., int] = int
    """Function from the number of forward and backward passes that this process needs to the number
    that all processes must run."""

    @property
    def in_step(self) -> bool:
        """Whether each pass of a rollout needs all processes, so that none may restart it."""
        return False

    def full_tensors(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields all weights and buffers with their names; every process must consume all."""
        yield from model.state_dict().items()

    def num_parameters(self, model: Any) -> int:
        """Counts the parameters of the whole base."""
        found: int = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        return found + num_quantized(model)
