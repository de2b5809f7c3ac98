"""The protocol for reading micro-batches in an update, packed (`packing`) or padded (`padding`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from steer_lightning.model.attention import AttentionCall
from steer_lightning.model.head import TokenStates
from steer_lightning.training.batch import MicroBatch


class Forward(Protocol):
    """Reads micro-batches with the policy; all implementations give the same result."""

    def passes(self) -> AbstractContextManager[None]:
        """Prepares the model for the passes within the block."""

    def prepare(self, rows: MicroBatch, /) -> Any:
        """Converts n rows into the form that the passes read; called once for all passes."""

    def token_states(
        self, prepared: Any, /, temperature: float, with_entropy: bool = False
    ) -> AbstractContextManager[TokenStates]:
        """Reads a micro-batch; the backward pass must run within the block.

        Args:
            prepared: Rows as `prepare` returned them.
            temperature: Temperature of the sampled distribution.
            with_entropy: Whether to compute the entropy.

        Yields:
            Log-probabilities (and entropies) of the completion tokens, (n, T); arbitrary where
            masked.
        """


class Packed(Protocol):
    """A packed sequence, of one experiment or of several."""

    ids: torch.Tensor
    positions: torch.Tensor
    roles: torch.Tensor
    predictors: torch.Tensor

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attends within the rows; see `Packing.attend`."""

    def by_rows(
        self, mix: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor
    ) -> torch.Tensor:
        """Mixes the tokens within the rows; see `Packing.by_rows`."""
