"""Intervals of the bootstrap, against the normal approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steer_lightning.evaluation import difference, estimate
from steer_lightning.evaluation.intervals import Estimate, fields_of, resampled_means


def test_intervals_of_the_bootstrap() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    found = estimate(values)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)  # of the normal approximation
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=2e-3)
    assert found.high == pytest.approx(0.3 + half, abs=2e-3)
    assert estimate(values) == found, "the same each time"
    assert estimate(np.append(values, math.nan)).value == pytest.approx(0.3)
    alone = estimate(np.array([1.0]))
    assert (alone.value, alone.low, alone.high) == (1.0, None, None)
    assert math.isnan(estimate(np.array([math.nan])).value)


def test_paired_differences_know_that_the_problems_are_the_same() -> None:
    generator = np.random.default_rng(1)
    base = (generator.random(400) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:20]] = 1  # 20 of 400 more, none less
    found = difference(better, base)
    assert found.value == pytest.approx(0.05)
    half = 1.96 * math.sqrt(0.05 * 0.95 / 400)
    assert found.low == pytest.approx(0.05 - half, abs=3e-3)
    assert found.low > 0
    one, other = estimate(better), estimate(base)
    assert one.low < other.high, "their own intervals overlap"


def test_several_numbers_are_resampled_together_as_one_is() -> None:
    generator = np.random.default_rng(2)
    values = generator.random((30, 2))
    means = np.concatenate(list(resampled_means(values)))
    assert means.shape == (10_000, 2)
    for column in (0, 1):
        found = estimate(values[:, column])
        low, high = np.quantile(means[:, column], [0.025, 0.975])
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    same = np.concatenate(list(resampled_means(np.stack([values[:, 0]] * 2, axis=1))))
    np.testing.assert_array_equal(same[:, 0], same[:, 1])


def test_names_of_an_estimate_in_a_file() -> None:
    found = Estimate(value=0.5, low=0.25, high=0.75)
    assert fields_of("", found) == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert list(fields_of("difference", found)) == [
        *("difference", "difference_low", "difference_high")
    ]
    assert fields_of("", Estimate(value=math.nan, low=None, high=None))["value"] is None
