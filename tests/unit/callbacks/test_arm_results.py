"""Results of arms: paired differences, and arms without answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pytest

from steer_lightning.callbacks.arm_results import ArmResult, arm_results, lines_of
from steer_lightning.evaluation import BenchmarkMetrics
from steer_lightning.evaluation.ablation import EvalArm
from steer_lightning.evaluation.at_k import Sample

ARMS = [EvalArm(name=name) for name in ("trained", "half", "base", "lost")]


def measured(verdicts: Sequence[float | None]) -> BenchmarkMetrics:
    """Metrics of problems with one completion each, in the order of their ids."""
    metrics = BenchmarkMetrics()
    for number, verdict in enumerate(verdicts):
        sample = Sample(verdict=verdict, num_tokens=number, finished=number > 0)
        metrics["problems"].update(number, [sample])
        if verdict is not None:
            metrics["accuracy"].update(verdict)
        metrics["completion_length"].update(number)
        metrics["cut_off_share"].update(float(number == 0))
        metrics["num_unscored"].update(float(verdict is None))
    return metrics


def test_differences_are_paired(caplog: pytest.LogCaptureFixture) -> None:
    trained = [1, 1, 1, 1, 0, 0, 0, 0]
    half = [0, 1, 1, 1, 0, 0, 0, 0]
    metrics = [measured(rows) for rows in (trained, half, [0] * 8, [None] * 8)]
    found = arm_results("sums", 7, ARMS, metrics, {"lost": "its logits are not finite"})
    assert "arm lost of sums is not measured at step 7: its logits are not finite" in caplog.text
    assert [(result.arm, result.accuracy, result.difference) for result in found] == [
        ("half", 3 / 8, -1 / 8),
        ("base", 0, -1 / 2),
    ]
    low, high = found[0].difference_low, found[0].difference_high
    assert low is not None
    assert high is not None
    assert low < -1 / 8 < high == 0, "one problem of 8 differs, so no resample is above 0"
    assert low > -0.5, "narrower than unpaired: each accuracy alone varies by 0.7"
    assert found[0].completion_length == 3.5
    assert found[0].cut_off_share == 1 / 8
    assert ArmResult(**asdict(found[0])) == found[0]
    assert lines_of(found) == [
        f"            half   37.5%  -12.5 points from the trained vectors [{100 * low:+.1f}, +0.0]",
        "            base    0.0%  -50.0 points from the trained vectors [-87.5, -12.5]",
    ]
    assert "benchmark" not in found[0].figures
    assert found[0].figures["difference"] == -1 / 8


def test_a_single_problem_has_no_interval() -> None:
    found = arm_results("sums", 0, ARMS[:2], [measured([1]), measured([0])], {})
    assert lines_of(found) == ["            half    0.0%  -100.0 points from the trained vectors"]
    assert found[0].figures.keys() == {
        *("accuracy", "difference", "completion_length", "cut_off_share", "num_unscored")
    }
    assert arm_results("sums", 0, [], [measured([1])], {}) == []
