"""Muon for vectors: each layer's step has one direction and one size, whatever its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from steer_lightning.errors import ConfigError

KEY = "model.optimizer.init_args"


class MuonByLayer(torch.optim.Optimizer):
    """Muon (arXiv 2502.16982) with each row of a parameter as a matrix of its own.

    Muon replaces the momentum of a matrix by its polar factor U V^T, where U S V^T is the singular
    value decomposition. `torch.optim.Muon` takes the stack of all vectors, (L, D), for that matrix:
    its Newton-Schulz iterations make the steps of different layers orthogonal to each other, so
    that the gradient of one layer changes the steps of all. A row of its own has the polar factor
    u / norm(u), and Muon becomes momentum of a fixed length:

        m <- momentum * m + (1 - momentum) * g
        u = momentum * m + (1 - momentum) * g          (Nesterov's form, as in torch)
        w <- (1 - lr * weight_decay) * w - lr * sqrt(n) * u / norm(u)

    where n is the number of elements of u that are not 0, D for a vector. The factor sqrt(n) is the
    scaling sqrt(outputs / inputs) under which rates carry over to other widths (arXiv 2512.05620),
    with one input, as for a bias. A step so changes each vector by `lr`, as a root mean square over
    its elements: the same unit as the steps of Adam. The padding of a row does not count, and stays
    0.

    A row whose gradient is 0 keeps its momentum and is not moved, apart from weight decay. Such
    gradients are usual in reinforcement learning, when no group has signal, and a step of full
    length along old momentum would learn from nothing.

    Args:
        params: Parameters with one axis, each a vector, or with two, each row a vector. A kind of
            `model.steering` whose rows are no vectors is refused before the model loads.
        lr: Root mean square of the change of each vector in a step, in the vectors' units.
        momentum: Decay of the momentum.
        weight_decay: Weight decay as in AdamW; it pulls the vectors towards zero.

    Attributes:
        by_layer: Says that rows are taken for vectors.

    Raises:
        ConfigError: If a setting is out of range.
    """

    by_layer = True

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        if not lr >= 0:
            raise ConfigError(f"{KEY}.lr", lr, rule="must be at least 0")
        if not 0 <= momentum < 1:
            raise ConfigError(f"{KEY}.momentum", momentum, rule="must be at least 0 and below 1")
        if not weight_decay >= 0:
            raise ConfigError(f"{KEY}.weight_decay", weight_decay, rule="must be at least 0")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, group)
        return loss

    def _step(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"]
        has_signal = gradient.ne(0).any(dim=-1, keepdim=True)
        decay = group["momentum"]
        momentum.copy_(torch.where(has_signal, momentum.lerp(gradient, 1 - decay), momentum))
        update = direction(gradient.lerp(momentum, decay)) * has_signal
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"])


def direction(rows: torch.Tensor) -> torch.Tensor:
    """Scales each row to root mean square 1 over its elements that are not 0.

    Args:
        rows: Rows, (..., D). A row of zeros stays as it is.
    """
    count = (rows != 0).sum(dim=-1, keepdim=True)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(norm > 0, rows * (count.sqrt() / norm), 0.0)
