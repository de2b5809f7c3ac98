"""Curves over the steps of a run, by hand."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.results.report.series import as_curve, clock_of, joined, read_series


def test_a_short_curve_is_each_step_and_a_trailing_mean() -> None:
    curve = as_curve([(1, 1.0), (2, 2.0), (4, 6.0), (5, float("nan"))])
    assert curve == {"width": 1, "x": [1, 2, 4], "y": [1, 2, 6], "smooth": [1, 1.5, 3]}


def test_a_long_curve_keeps_mean_and_range() -> None:
    # steps 3 to 9 are 7, at most 3 points: 3 steps a point
    points = [(3, 1.0), (4, 5.0), (5, 3.0), (6, 2.0), (8, 4.0), (9, -7.0)]
    assert as_curve(points, most=3) == {
        "width": 3,
        "x": [4, 7, 10],
        "y": [3, 3, -7],
        "low": [1, 2, -7],
        "high": [5, 4, -7],
    }


def test_no_extreme_is_lost_in_a_long_curve() -> None:
    points = [(step, float(step % 11)) for step in range(5000)] + [(5000, 99.0)]
    curve = as_curve(points)
    assert len(curve["x"]) <= 500
    assert max(curve["high"]) == 99
    assert min(curve["low"]) == 0
    assert as_curve([]) == {"width": 1, "x": [], "y": [], "smooth": []}


def test_stages_of_an_interrupted_run_are_joined() -> None:
    first = {"a": [(1, 1.0), (2, 2.0), (3, 3.0)], "b": [(3, 0.0)]}
    second = {"a": [(3, 3.5), (4, 4.0)], "c": [(4, 9.0)]}
    assert joined([first, {}, second]) == {
        "a": [(1, 1.0), (2, 2.0), (3, 3.5), (4, 4.0)],
        "c": [(4, 9.0)],
    }


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n1,0.25\n2,0.5\n3,0.7")
    assert read_series(tmp_path) == {"reward/mean": [(1, 0.25), (2, 0.5)]}


def test_the_clock_adds_up_the_steps() -> None:
    seconds = {"speed/step_seconds": [(1, 2.0), (2, 3.0), (4, 1.5), (5, float("nan")), (6, 1.0)]}
    # step 3 was not logged, and counts as long as step 4; step 5 as long as step 6
    clock = {"steps": [1, 2, 4, 6], "seconds": [2.0, 5.0, 8.0, 10.0]}
    assert clock_of(seconds) == clock
    assert clock_of({}) is None
    long = {"speed/step_seconds": [(step, 0.5) for step in range(1, 1002)]}
    found = clock_of(long, most=10)
    assert found is not None
    assert found["steps"][0] == 1
    assert found["steps"][-1] == 1001
    assert len(found["steps"]) <= 11
    assert found["seconds"] == [0.5 * step for step in found["steps"]]
