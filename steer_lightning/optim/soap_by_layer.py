"""SOAP for vectors: Adam in the eigenbasis of each layer's own gradients.

The file needs the extra `soap`, so the room does not import it by itself. Tested with
pytorch_optimizer 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.system.extras import install_command

try:
    from pytorch_optimizer import SOAP
except ModuleNotFoundError as error:
    raise ConfigError(
        "model.optimizer",
        "SOAPByLayer",
        rule="needs the package pytorch-optimizer",
        fix=install_command("soap"),
    ) from error

__all__ = ["SOAPByLayer"]


class SOAPByLayer(SOAP):
    """SOAP (arXiv 2409.11321) with each row of a parameter as a matrix of its own.

    SOAP keeps running averages of G G^T and G^T G for a matrix of gradients G, and runs Adam on the
    gradient as seen in their eigenvectors. With the stack of all vectors for G, (L, D), the first
    mixes the layers, and the second is shared by them. For a row g of its own the first is a
    number, and what remains is

        C <- beta_2 * C + (1 - beta_2) * g^T g,          Q: eigenvectors of C, (D, D)
        w <- w - lr * Q Adam(Q^T g)

    so each layer has its own basis. As in SOAP, Q is brought up to date every
    `precondition_frequency` steps, by a step of power iteration and a QR decomposition, and the
    first step only sets Q up. C has at most the rank of the number of steps; along the eigenvectors
    of eigenvalue 0, of which any choice is as good as another, this is Adam in a rotated basis.

    The state has 2 D^2 numbers for each layer, 4.7 MB for a vector of width 768, and 134 MB for one
    of 4,096, where vectors have 16 kB. Each checkpoint has it, too.

    Args:
        params: Parameters with one axis, each a vector, or with two, each row a vector. A kind of
            `model.steering` whose rows are no vectors is refused before the model loads.
        lr: Learning rate, of the unit of Adam's.
        betas: Decay of the momentum, and of the second moments and C.
        weight_decay: Weight decay as in AdamW; it pulls the vectors towards zero.
        precondition_frequency: Number of steps between updates of Q.

    Attributes:
        by_layer: Says that rows are taken for vectors.

    Raises:
        ConfigError: If the package is missing, or the learning rate is negative.
        ValueError: If another setting is out of range.
    """

    by_layer = True

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        precondition_frequency: int = 10,
    ) -> None:
        if not lr >= 0:
            raise ConfigError("model.optimizer.init_args.lr", lr, rule="must be at least 0")
        self._weights = list(params)
        rows = [nn.Parameter(row) for weight in self._weights for row in _rows_of(weight.detach())]
        super().__init__(
            rows,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            precondition_frequency=precondition_frequency,
            precondition_1d=True,
            max_precondition_dim=max(len(row) for row in rows),  # larger ones would get plain Adam
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rows = iter(self.param_groups[0]["params"])
        for weight in self._weights:
            gradient = None if weight.grad is None else _rows_of(weight.grad)
            for number, data in enumerate(_rows_of(weight.detach())):
                row = next(rows)
                row.data = data  # the parameter may have moved to other memory since
                row.grad = None if gradient is None else gradient[number]
        super().step()
        return loss


def _rows_of(weight: torch.Tensor) -> torch.Tensor:
    """Returns a parameter as rows, (rows, D), in the same memory."""
    return weight if weight.ndim == 2 else weight[None]
