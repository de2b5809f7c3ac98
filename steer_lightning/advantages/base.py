"""The protocol of an advantage estimator."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Advantage(Protocol):
    """Turns rewards into advantages.

    An estimator is pure and knows nothing of text. A plain function of the same form is an
    estimator, too. One that needs several completions of a prompt says so in an attribute
    `min_group_size`.
    """

    def __call__(self, rewards: Any, /) -> Any:
        """Takes rewards (B, G), NaN where unscored, and returns finite advantages (B, G)."""
        ...
