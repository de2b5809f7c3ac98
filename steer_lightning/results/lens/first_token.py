"""The effect of vectors on the first generated token: its probabilities with and without them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steer_lightning.model.head import kl
from steer_lightning.system.float64 import in_float64


@dataclass(frozen=True, kw_only=True)
class Change:
    """The next-token probabilities of the base and of the steered model."""

    base: torch.Tensor
    """Probabilities of the base, (V,) float64."""
    steered: torch.Tensor
    """Probabilities of the steered model, (V,) float64."""

    def up(self, count: int) -> list[int]:
        """Returns the tokens that gain the most probability, largest gain first."""
        return self._most(self.steered - self.base, count)

    def down(self, count: int) -> list[int]:
        """Returns the tokens that lose the most probability, largest loss first."""
        return self._most(self.base - self.steered, count)

    @staticmethod
    def _most(gain: torch.Tensor, count: int) -> list[int]:
        values, ids = gain.topk(min(count, len(gain)))
        return [int(token) for value, token in zip(values, ids, strict=True) if value > 0]


def change_of(base: torch.Tensor, steered: torch.Tensor) -> Change:
    """Computes the change for one prompt.

    Args:
        base: Logits of the base, (V,).
        steered: Logits of the steered model, (V,).
    """
    return Change(base=in_float64(base).softmax(-1), steered=in_float64(steered).softmax(-1))


def mean_change(changes: list[Change]) -> Change:
    """Averages the probabilities over at least one prompt."""
    return Change(
        base=torch.stack([change.base for change in changes]).mean(0),
        steered=torch.stack([change.steered for change in changes]).mean(0),
    )


def divergence(base: torch.Tensor, steered: torch.Tensor) -> float:
    """Computes KL(steered || base) = sum_t p(t) (log p(t) - log q(t)), in nats.

    Args:
        base: Logits of the base q, (V,).
        steered: Logits of the steered model p, (V,).
    """
    ours, theirs = in_float64(steered).log_softmax(-1), in_float64(base).log_softmax(-1)
    return float(kl(ours, theirs))
