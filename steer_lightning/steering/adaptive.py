"""Vectors whose size depends on the token to which they are added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from steer_lightning.steering.vectors import SteeringVectors


class AdaptiveVectors(SteeringVectors):
    """Vectors with a gate that scales them for each token.

    `h_t <- h_t + g_t v` with `g_t = 2 sigmoid(w . h_t / (rms(h_t) sqrt(D)))`, where `h_t` is the
    output of the site for token t, and `g_t` is between 0 and 2. The gates w start at zero, so that
    at the start `g_t = 1` and the vectors are plain ones. `2 * L * D` numbers are trained. The
    follow-up of the paper (arXiv 2509.06608) scales its vectors token by token; this form of the
    gate is specific to this package.

    Attributes:
        gates: Weights w of the gates, (L, D padded to a multiple of 256) float32 parameter.
    """

    file_name = "adaptive_vectors.safetensors"
    saved_as = "AdaptiveVectors"
    by_token = True
    gates: nn.Parameter

    def _make(self) -> None:
        super()._make()
        self.gates = nn.Parameter(torch.zeros_like(self.weight))

    def gate(self, row: int, stream: torch.Tensor) -> torch.Tensor:
        """Returns g_t for each token of a stream; see `SiteVectors.gate`."""
        exact = stream.float()
        size = exact.pow(2).mean(-1, keepdim=True).add(1e-12).sqrt()
        weight = self.gates[row, : self.width, None] / self.width**0.5
        return 2 * torch.sigmoid((exact / size) @ weight).to(stream.dtype)

    @property
    def num_trained(self) -> int:
        """Number of trained numbers, `2 * L * D`, without padding."""
        return 2 * super().num_trained

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"{super().describe()} and as many gates"

    def result(self) -> dict[str, torch.Tensor]:
        """Returns the vectors and the gates; see `SiteVectors.result`."""
        return {**super().result(), "gates": self.gates[:, : self.width]}

    @torch.no_grad()
    def set_result(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Sets the vectors and, if there are any, the gates; see `SiteVectors.set_result`."""
        super().set_result(tensors)
        if "gates" in tensors:
            self.gates[:, : self.width] = tensors["gates"].to(self.gates)
