"""The protocol of an advantage estimator."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Advantage(Protocol):
    """Turns rewards into advantages.

    An estimator does not see text. A plain function with the same arguments is an estimator, too.
    An estimator that needs several completions of a prompt declares it in an attribute
    `min_group_size`, which `min_group_size_of` reads. An estimator that is defined only for rewards
    from some number on declares it in `min_reward`. An estimator whose advantages are never below 0
    if no reward is below some number declares that number in `non_negative_from`; the objective
    `Likelihood` takes no other estimator. An estimator with `reads_completions = True`
    also gets `num_tokens` and `logprob_sums`, as keywords: the length of each completion (B, G) and
    its log-probability (B, G) in nats. They need a default, as the check of plug-ins asks for.
    """

    def __call__(self, rewards: Any, /) -> Any:
        """Takes rewards (B, G), NaN where unscored, and returns finite advantages (B, G)."""
        ...


def min_group_size_of(advantage: Any) -> int:
    """Returns the smallest number of completions of a prompt that an estimator needs; default 1."""
    return int(getattr(advantage, "min_group_size", 1))


def min_reward_of(advantage: Any) -> float:
    """Returns the smallest reward for which an estimator is defined; default minus infinity."""
    return float(getattr(advantage, "min_reward", -math.inf))


def non_negative_from_of(advantage: Any) -> float:
    """Returns from which reward on no advantage is negative; default infinity, from none on."""
    return float(getattr(advantage, "non_negative_from", math.inf))
