"""Vectors whose size depends on the token that they are added to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from steer_lightning.steering.base import Steering
from steer_lightning.steering.vectors import SteeringVectors


class AdaptiveVectors(SteeringVectors):
    """Token-wise scale: `h_t <- h_t + g_t v` with `g_t = 2 sigmoid(w . h_t / (rms(h_t) sqrt(D)))`.

    h_t is what the place puts out for token t, and g_t lies between 0 and 2. The gates w start at
    zero, where g_t = 1 and the vectors are plain ones. 2 * L * D numbers. The follow-up of the
    paper (arXiv 2509.06608) scales its vectors token by token; this form of the gate is the
    package's own.

    Attributes:
        gates: (L, D padded to a multiple of 256) float32 parameter, w.
    """

    file_name = "adaptive_vectors.safetensors"
    by_token = True
    gates: nn.Parameter

    def _make(self) -> None:
        super()._make()
        self.gates = nn.Parameter(torch.zeros_like(self.weight))

    def gate(self, row: int, stream: torch.Tensor) -> torch.Tensor:
        """See `SiteVectors.gate`."""
        exact = stream.float()
        size = exact.pow(2).mean(-1, keepdim=True).add(1e-12).sqrt()
        weight = self.gates[row, : self.width, None] / self.width**0.5
        return 2 * torch.sigmoid((exact / size) @ weight).to(stream.dtype)

    @property
    def num_trained(self) -> int:
        """Trained numbers, 2 * L * D; the padding is not one of them."""
        return 2 * super().num_trained

    def describe(self) -> str:
        """See `Steering.describe`."""
        return f"{super().describe()} and as many gates"

    def _take_over(self, found: Steering) -> None:
        super()._take_over(found)
        if isinstance(found, AdaptiveVectors):
            with torch.no_grad():
                self.gates.copy_(found.gates)

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves plain vectors and gates; `load_steering` reads them."""
        from steer_lightning.steering.io import save_adaptive

        save_adaptive(self, path, base_model=base_model, revision=revision, step=step)
