"""The protocol of reading micro-batches for an update, packed (`packing`) or padded (`padding`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from steer_lightning.model.head import TokenStates
from steer_lightning.training.batch import MicroBatch


class Forward(Protocol):
    """Reads micro-batches with the policy; all implementations give the same result."""

    def passes(self) -> AbstractContextManager[None]:
        """Prepares the model for the passes of the block."""

    def prepare(self, rows: MicroBatch, /) -> Any:
        """Brings n rows into the form that the passes read, once for all of them."""

    def token_states(
        self, prepared: Any, /, temperature: float, with_entropy: bool = False
    ) -> AbstractContextManager[TokenStates]:
        """Reads a micro-batch; the backward pass must run within the block.

        Args:
            prepared: Rows as `prepare` returned them.
            temperature: Temperature of the sampled distribution.
            with_entropy: Whether the entropy is asked for.

        Yields:
            Log-probabilities (and entropies) of the completion tokens, (n, T); arbitrary where
            masked.
        """
