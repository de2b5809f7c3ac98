"""The protocol for reading micro-batches in an update, packed (`packing`) or padded (`padding`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

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
