"""The error for a damaged file of a run."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.results.report.damage import damaged


def test_the_reason_is_one_line() -> None:
    error = damaged(Path("run-1/metrics.csv"), ValueError("line 2\n  has no step."))
    assert str(error) == (
        "run = 'run-1/metrics.csv': is damaged. line 2 has no step. "
        "Restore it, or move it out of the folder: the report works without it."
    )
