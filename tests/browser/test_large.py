"""A run of 5,000 steps opens in less than 3 seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from steer_lightning.results.report import write_report
from tests import made_up_run
from tests.browser.conftest import Open

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STEPS = range(1, 5001)
TEXT = "{step}{n} " + "So far it is a long way to go. " * 300


def test_a_run_of_5000_steps_opens_in_less_than_3_seconds(tmp_path: Path, opened: Open) -> None:
    run = tmp_path / "run-1"
    run.mkdir()
    noise = {f"reward/part_{k}": lambda step, k=k: (step * 7919 + k) % 101 / 100 for k in range(25)}
    made_up_run.write_metrics(run, STEPS, **noise)  # type: ignore[arg-type]
    made_up_run.write_rollouts(run, STEPS, prompts=8, group=16, text=TEXT)
    made_up_run.write_config(run)
    made_up_run.write_summary(run)
    made_up_run.write_lens(run, layers=48)
    start = time.perf_counter()
    path = write_report(run)
    print(f"written in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
    assert path.stat().st_size < 6e6
    page = opened(path)
    drawn = page.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000
    print(f"opened and drawn in {drawn:.2f} s")
    assert drawn < 3
    assert page.locator("#curves svg").count() == 6
    assert "Each point represents 10 steps" in page.inner_text("#curves")
    every = page.inner_text(".count")
    start = time.perf_counter()
    page.fill("#search", "to go")
    assert page.inner_text(".count") == every, "all texts were searched"
    print(f"searched in {time.perf_counter() - start:.2f} s")
