"""What a loss is."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Loss(Protocol):
    """Turns log-probabilities and advantages into a scalar; pure, knows no rewards.

    Rows of advantage 0 are left out before a loss sees them, since their policy gradient is 0. A
    loss that needs them all the same, for a term of its own, says so in an attribute
    `needs_all_rows = True`.
    """

    def __call__(self, inputs: Any, /) -> Any:
        """Takes the `LossInputs` of a micro-batch; returns a `LossOutput`."""
        ...
