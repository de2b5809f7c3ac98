"""What an advantage estimator is."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Advantage(Protocol):
    """Turns rewards into advantages.

    Pure, knows no text. A plain function of the same form is one, too.

    An estimator that needs several completions of a prompt says so in an attribute
    `min_group_size`.
    """

    def __call__(self, rewards: Any, /) -> Any:
        """Takes rewards, a tensor (B, G) with NaN where unscored.

        Returns finite advantages (B, G).
        """
        ...
