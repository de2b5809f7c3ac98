"""Metrics over several samples of a problem, by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation import (
    AvgAtK,
    CompletionLength,
    CutOffShare,
    FormatShare,
    MajAtK,
    PassAtK,
    Sample,
)
from steer_lightning.evaluation.at_k import HardAccuracy, RightAndHard, SoftAccuracy, pass_at_k


def samples(verdicts: list[float | None], votes: list[int | None] | None = None) -> list[Sample]:
    votes = votes or [None] * len(verdicts)
    return [
        Sample(verdict=verdict, num_tokens=10 + n, finished=n > 0, vote=vote)
        for n, (verdict, vote) in enumerate(zip(verdicts, votes, strict=True))
    ]


def test_avg_is_the_mean_over_problems_of_what_was_judged() -> None:
    metric = AvgAtK()
    metric.update(7, samples([1.0, 0.0, None, 0.0]))  # 1 / 3
    metric.update(3, samples([1.0, 1.0]))
    metric.update(5, samples([None, None]))
    problems, values = metric.by_problem()
    assert problems.tolist() == [3, 5, 7]
    np.testing.assert_allclose(values, [1, math.nan, 1 / 3])
    assert float(metric.compute()) == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_one(k: int) -> None:
    verdicts = [1.0, 0.0, 0.0, 1.0, 0.0]
    subsets = list(itertools.combinations(verdicts, k))
    metric = PassAtK(k)
    metric.update(0, samples([*verdicts, None]))
    assert float(metric.compute()) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_pass_at_k_is_exact_at_256() -> None:
    """The product 1 - prod (1 - k / i), i from n - c + 1 to n, in fractions (arXiv 2107.03374)."""
    n = 256
    for k, c in itertools.product([1, 2, 64, 128, 255, 256], [0, 1, 2, 128, 255, 256]):
        missed = math.prod(1 - Fraction(k, i) for i in range(n - c + 1, n + 1)) if c <= n - k else 0
        assert pass_at_k(n, c, k) == float(1 - Fraction(missed)), (k, c)
    assert [pass_at_k(n, c, n) for c in (0, 1, n)] == [0.0, 1.0, 1.0]
    assert pass_at_k(n, 1, 1) == 1 / 256
    assert pass_at_k(100_000, 3, 50_000) == pytest.approx(1 - 1 / 8, abs=1e-5)


def test_pass_at_k_needs_k_samples() -> None:
    metric = PassAtK(3)
    metric.update(0, samples([1.0, 1.0]))
    assert math.isnan(float(metric.compute()))
    with pytest.raises(ConfigError, match=r"PassAtK\.k = 0"):
        PassAtK(0)


@pytest.mark.parametrize(
    ("verdicts", "votes", "expected"),
    [
        ([1.0, 0.0, 0.0], [0, 1, 1], 0.0),
        ([0.0, 1.0, 1.0], [0, 1, 1], 1.0),
        ([1.0, 0.0, 0.0, 1.0], [0, 1, 1, 0], 1.0),  # of equals the first that was given
        ([0.0, 1.0], [0, 1], 0.0),
        ([0.0, 0.0, 1.0], [None, None, 0], 1.0),  # no answer, no vote
        ([0.0, 0.0], [None, None], 0.0),
        ([None, None, 1.0], [0, 0, 1], math.nan),  # the chosen one can't be judged
        ([None, 1.0, 0.0], [0, 0, 1], 1.0),  # an equal one could be judged
        ([0.0, 1.0, 1.0, 0.0], [0, 0, 0, 1], 1.0),  # most of its samples are right
        ([1.0, 0.0, 0.0, 1.0], [0, 0, 0, 1], 0.0),
        ([1.0, 0.0], [0, 0], 0.0),  # not more than half, in either order
        ([0.0, 1.0], [0, 0], 0.0),
    ],
)
def test_the_answer_of_most_samples(
    verdicts: list[float | None], votes: list[int | None], expected: float
) -> None:
    assert MajAtK().number(samples(verdicts, votes)) == pytest.approx(expected, nan_ok=True)


def test_instructions_that_are_followed() -> None:
    given = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.5), (None, 0.0)]
    found = [
        Sample(verdict=verdict, num_tokens=1, finished=True, followed=share)
        for verdict, share in given
    ]
    assert HardAccuracy().number(found) == 0.5
    assert SoftAccuracy().number(found) == 0.625
    assert RightAndHard().number(found) == pytest.approx(1 / 3), "of the three with a verdict"
    without = samples([1.0])
    for metric in (HardAccuracy(), SoftAccuracy(), RightAndHard()):
        assert math.isnan(metric.number(without))


def test_length_and_shares() -> None:
    found = samples([1.0, 0.0, 0.0, None], [0, None, 1, None])
    assert CompletionLength().number(found) == 11.5
    assert CutOffShare().number(found) == 0.25
    assert FormatShare().number(found) == 0.5
