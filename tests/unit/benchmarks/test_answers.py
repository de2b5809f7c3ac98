"""Hardly any right answer is refused and hardly any wrong one accepted, on a sample of both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from steer_lightning.rewards import MathReward

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import answers


def sample() -> list[tuple[str, str]]:
    """The second gold answer of each kind."""
    golds = answers.read_golds(Path(answers.__file__).parent / "data/answer_golds.txt", "answer")
    kinds = dict.fromkeys(kind for kind, _ in golds)
    return [[gold for gold in golds if gold[0] == kind][1] for kind in kinds]


def test_the_rates_of_mistakes_on_a_sample() -> None:
    found = answers.measure(sample(), workers=0)
    assert found["num_right"] > 500
    assert found["num_wrong"] > 250
    assert found["false_refusals"] <= answers.MOST_REFUSED, found["mistakes"]
    assert found["false_acceptances"] <= answers.MOST_ACCEPTED, found["mistakes"]


@pytest.mark.parametrize(("verdict", "rates"), [(0.0, (1.0, 0.0)), (1.0, (0.0, 1.0))])
def test_mistakes_are_counted(
    verdict: float, rates: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MathReward, "__call__", lambda self, rows: [verdict] * len(rows))
    found = answers.measure([("integer", "18"), ("fraction", r"\frac{9}{5}")], workers=0)
    assert (found["false_refusals"], found["false_acceptances"]) == rates
