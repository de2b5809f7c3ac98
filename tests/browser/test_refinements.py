"""Refined answers on the page of a run."""

from __future__ import annotations

import json
from pathlib import Path

from steer_lightning.results.report import write_report
from tests import made_up_run
from tests.browser.conftest import Open


def test_what_refined_answers_cost(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    path = run / "evaluation/results.json"
    record = {"benchmark": "sums", "arm": "steered, mine", "changed": 0.25, "cost": 4.2}
    record |= {"forward_tokens": 100.4, "backward_tokens": 31.0, "seconds": 0.25, "num_plain": 4}
    record |= {"value": 0.5, "low": 0.4, "high": 0.6, "vote": 0.75, "vote_low": 0.7}
    record |= {"vote_high": 0.8, "best": None, "best_low": None, "best_high": None}
    record |= {"over_vote": -0.25, "over_vote_low": -0.3, "over_vote_high": -0.2}
    record |= {"over_best": None, "over_best_low": None, "over_best_high": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), "refinements": [record]}))
    page = opened(write_report(run))
    assert page.locator("#benchmarks h4", has_text="sums: refined answers").count() == 1
    table = page.locator("#benchmarks table", has_text="cost in plain samples")
    (row,) = table.locator("tbody tr").all_inner_texts()
    told = "steered, mine 50.0 % [40.0, 60.0] 25.0 % 100 31 0.250 4.2 75.0 % [70.0, 80.0]"
    told += " \u221225.0 points [\u221230.0, \u221220.0] \u2013 \u2013"
    assert row.split() == told.split()
