"""Means with 95 % bootstrap intervals over problems, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK = 2**22
"""Largest number of drawn indices in memory at once."""

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over problems, with its interval."""

    value: float
    low: float | None
    """Lower end of the interval; None if there is at most one problem, so nothing to resample."""
    high: float | None


def estimate(values: Values) -> Estimate:
    """Estimates the mean over problems, with the percentile bootstrap's 95 % interval (Efron 1979).

    Problems are drawn with replacement, each with all its samples, because another benchmark of the
    same kind would have had other problems. The draw is the same each time.

    Args:
        values: One number per problem, (P,); NaN for problems without one, which are left out.

    Returns:
        The estimate: NaN without an interval if no problem has a number.
    """
    kept = values[~np.isnan(values)]
    if not len(kept):
        return Estimate(value=float("nan"), low=None, high=None)
    if len(kept) == 1:
        return Estimate(value=float(kept[0]), low=None, high=None)
    means = [kept[drawn].mean(1) for drawn in _draws(len(kept))]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(value=float(kept.mean()), low=float(low), high=float(high))


def _draws(num_problems: int) -> Iterator[NDArray[np.int64]]:
    """Yields the problems of all resamples, a chunk (r, P) of indices at a time."""
    generator = np.random.default_rng(0)
    rows = max(1, CHUNK // num_problems)
    for start in range(0, RESAMPLES, rows):
        yield generator.integers(num_problems, size=(min(rows, RESAMPLES - start), num_problems))


def resampled_means(values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yields the means of several numbers per problem over the resamples that `estimate` draws.

    Args:
        values: K numbers per problem, (P, K), none of them NaN.

    Yields:
        Means (r, K) of r resamples, 10,000 in all.
    """
    size = len(values)
    for drawn in _draws(size):
        rows = np.arange(len(drawn))[:, None]
        times = np.bincount((rows * size + drawn).ravel(), minlength=drawn.size)
        yield times.reshape(drawn.shape) @ values / size


def difference(values: Values, base: Values) -> Estimate:
    """Estimates the mean of the paired differences `values - base` over the same problems.

    The interval is much narrower than the difference of two intervals, because the part of a
    problem's difficulty that both arms share cancels.

    Args:
        values: Numbers of one arm, (P,).
        base: Numbers of the other arm, (P,), for the same problems in the same order.
    """
    return estimate(values - base)


def fields_of(prefix: str, found: Estimate) -> dict[str, float | None]:
    """Names the numbers of an estimate for a file, as `value`, `low`, `high` or with a prefix.

    Args:
        prefix: Name of the number, such as `difference`; empty for `value`.
        found: Estimate; a value of NaN becomes None.
    """
    value = None if math.isnan(found.value) else found.value
    names = (prefix or "value", f"{prefix}_low".strip("_"), f"{prefix}_high".strip("_"))
    return dict(zip(names, (value, found.low, found.high), strict=True))
