"""The reward as a line of bars."""

from __future__ import annotations

from steer_lightning.callbacks.progress_bar import sparkline


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5]) == "▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([float(k) for k in range(100)])) == 12
