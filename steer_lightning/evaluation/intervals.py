"""95 % intervals by the bootstrap over problems, and paired differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 2**22
"""Drawn indices that exist at once."""

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over problems and its interval."""

    value: float
    low: float | None
    """None where a single problem leaves nothing to resample."""
    high: float | None


def estimate(values: Values) -> Estimate:
    """Mean over problems with the percentile bootstrap's 95 % interval (Efron 1979).

    Problems are drawn with replacement, each with all its samples: they are what another benchmark
    of the same kind would have had others of. The draw is the same each time.

    Args:
        values: (P,) one number a problem, NaN where there is none; those are left out.

    Returns:
        NaN with no interval if no problem has a number.
    """
    kept = values[~np.isnan(values)]
    if not len(kept):
        return Estimate(value=float("nan"), low=None, high=None)
    if len(kept) == 1:
        return Estimate(value=float(kept[0]), low=None, high=None)
    generator = np.random.default_rng(0)
    rows = max(1, CHUNK // len(kept))
    means = [
        kept[generator.integers(len(kept), size=(min(rows, RESAMPLES - start), len(kept)))].mean(1)
        for start in range(0, RESAMPLES, rows)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(value=float(kept.mean()), low=float(low), high=float(high))


def difference(values: Values, base: Values) -> Estimate:
    """Mean of the paired differences `values - base` over the same problems, with its interval.

    Much narrower than the difference of two intervals: what makes a problem hard for both arms
    cancels.

    Args:
        values: (P,) of one arm.
        base: (P,) of the other, for the same problems in the same order.
    """
    return estimate(values - base)
