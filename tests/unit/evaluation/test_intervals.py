"""Intervals of the bootstrap, against the normal approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steer_lightning.evaluation import difference, estimate


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
