"""The effect of a model's final norm on a vector that is added to the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from steer_lightning.errors import ConfigError

PROBE = 1024.0
"""Size of the artificial streams with which a norm is tried; its epsilon is negligible here."""


@dataclass(frozen=True, kw_only=True)
class NormDirection:
    """Applies a norm without its division: v becomes g * v, elementwise.

    A norm maps the stream h to g * h / size(h), plus a bias; a LayerNorm subtracts the mean first.
    To first order, a vector v added to h moves the result by g * v / size(h), and by a multiple of
    the norm's own output, since v changes the size. That multiple only scales the existing logits
    and is left out. So is size(h), a number that depends on the text but favours no token. Products
    after the norm are thus changes of the logits at a stream of root mean square 1.

    Attributes:
        weight: Weight g of the norm, (D,) float32; 1 + w for the norms of Gemma, which store w.
        centred: Whether the norm subtracts the mean over the width.
    """

    weight: torch.Tensor
    centred: bool

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the vectors (L, D) as they are after the norm, (L, D)."""
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
        norm: Norm that maps (1, 1, D) to (1, 1, D).
        width: Width D, at least 2.
        like: Tensor with the dtype and device of the norm's input.
    """
    # the probe has mean 0, so it does not matter yet whether the norm subtracts the mean
    signs = torch.ones(width, dtype=torch.float64)
    signs[1::2] = -1
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
    probe = (signs * PROBE).to(like)

    def odd(stream: torch.Tensor) -> torch.Tensor:
        """Returns the odd part of the norm's output for a stream, which excludes the bias."""
        ahead, back = norm(stream[None, None]), norm(-stream[None, None])
        return (ahead.float() - back.float())[0, 0] / 2

    plain, shifted = odd(probe), odd(probe + PROBE)
    size = signs.square().mean().sqrt()
    return NormDirection(
        weight=plain * (size / signs).to(plain),
        centred=bool(torch.allclose(plain, shifted, rtol=1e-2, atol=1e-5)),
    )


def find_final_norm(model: nn.Module, layers: nn.ModuleList) -> nn.Module:
    """Finds the norm after the decoder layers: the last norm beside them in their parent module.

    Args:
        model: Language model.
        layers: Decoder layers of the model.

    Raises:
        ConfigError: If there is no such norm.
    """
    for module in model.modules():
        beside = dict(module.named_children())
        if any(child is layers for child in beside.values()):
            norms = [
                child
                for name, child in beside.items()
                # in Gemma 3n and 4, a norm of each layer's own inputs is beside it
                if "norm" in type(child).__name__.lower() and not name.startswith("per_layer")
            ]
            if norms:
                return norms[-1]
    raise ConfigError(
        "final_norm",
        True,
        rule=f"no norm was found beside the decoder layers of {type(model).__name__}",
        fix="Set it to false: vectors are then shown without it",
    )
