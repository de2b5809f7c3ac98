"""What a loss is."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Loss(Protocol):
    """Turns log-probabilities and advantages into a scalar; pure, knows no rewards."""

    def __call__(self, logprobs: Any, mask: Any, advantages: Any, num_rows: Any, /) -> Any:
        """Takes log-probabilities (n, T), mask (n, T), advantages (n,) and N.

        Returns a `LossOutput`.
        """
        ...
