"""What a model's final norm does to a vector that is added to the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from steer_lightning.errors import ConfigError

PROBE = 1024.0
"""Size of the made-up streams that a norm is tried on: its epsilon is nothing beside it."""


@dataclass(frozen=True, kw_only=True)
class NormDirection:
    """A norm without its division: v becomes g * v, elementwise.

    A norm maps the stream h to g * h / size(h), plus a bias; a LayerNorm takes the mean off first.
    To first order a vector v added to h moves that by g * v / size(h), and by a multiple of the
    norm's own output, since v changes the size: that scales the logits which are there anyway, and
    is left out. So is size(h), a number of each text that favours no token. Products behind the
    norm are thus changes of the logits at a stream of root mean square 1.

    Attributes:
        weight: g, (D,) float32; 1 + w for the norms of Gemma, which store w.
        centred: Whether the norm takes the mean over the width off.
    """

    weight: torch.Tensor
    centred: bool

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """(L, D) of vectors (L, D)."""
        moved = vectors.to(self.weight)
        if self.centred:
            moved = moved - moved.mean(-1, keepdim=True)
        return moved * self.weight


@torch.no_grad()
def norm_direction(
    norm: Callable[[torch.Tensor], torch.Tensor], width: int, like: torch.Tensor
) -> NormDirection:
    """Finds out what a norm does by trying it, however it stores its weight.

    Args:
        norm: Maps (1, 1, D) to (1, 1, D).
        width: D, at least 2.
        like: Of the dtype and on the device of what enters the norm.
    """
    # of mean 0, so that it does not matter here whether the norm takes it off
    signs = torch.ones(width, dtype=torch.float64)
    signs[1::2] = -1
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
    probe = (signs * PROBE).to(like)

    def odd(stream: torch.Tensor) -> torch.Tensor:
        """Without the bias."""
        ahead, back = norm(stream[None, None]), norm(-stream[None, None])
        return (ahead.float() - back.float())[0, 0] / 2

    plain, shifted = odd(probe), odd(probe + PROBE)
    size = signs.square().mean().sqrt()
    return NormDirection(
        weight=plain * (size / signs).to(plain),
        centred=bool(torch.allclose(plain, shifted, rtol=1e-2, atol=1e-5)),
    )


def find_final_norm(model: nn.Module, layers: nn.ModuleList) -> nn.Module:
    """The norm behind the decoder layers: the last one that stands beside them.

    Args:
        model: The language model.
        layers: Its decoder layers.

    Raises:
        ConfigError: If there is none.
    """
    for module in model.modules():
        beside = list(module.children())
        if any(child is layers for child in beside):
            norms = [child for child in beside if "norm" in type(child).__name__.lower()]
            if norms:
                return norms[-1]
    raise ConfigError(
        "final_norm",
        True,
        rule=f"no norm stands beside the decoder layers of {type(model).__name__}",
        fix="Leave it out: the vectors are then seen without it",
    )
