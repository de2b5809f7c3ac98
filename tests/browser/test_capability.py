"""The curves of pass@k on the page of a run."""

from __future__ import annotations

import json
from pathlib import Path

from steer_lightning.results.report import write_report
from tests import made_up_run
from tests.browser.conftest import Open


def test_curves_of_pass_at_k(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    path = run / "evaluation/results.json"
    of_it = {"benchmark": "sums", "num_samples": 4}
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    better = {"difference": 0.25, "difference_low": -0.1, "difference_high": 0.5}
    records = [
        {**of_it, "arm": "base", "points": [{"k": 1, **half}, {"k": 4, **half, "value": 0.55}]},
        {**of_it, "arm": "steered", "crosses_at": 3, "crosses_in": 0.6, "num_both": 5}
        | {"points": [{"k": 1, **half, **better}, {"k": 4, **half, **better, "difference": -0.05}]}
        | {"num_neither": 2, "only_arm": [], "only_base": [{"question": "1<2", "num_right": 3}]},
    ]
    path.write_text(json.dumps({**json.loads(path.read_text()), "capability": records}))
    page = opened(write_report(run))
    assert page.locator("#benchmarks h4", has_text="sums: pass@k").count() == 1
    rows = page.locator("#benchmarks table", has_text="steered against base").locator("tbody tr")
    found = [row.split() for row in rows.all_inner_texts()]
    bounds = ["%", "[40.0,", "60.0]"]
    assert [row[:9] for row in found] == [
        [k, value, *bounds, "50.0", *bounds] for k, value in (("1", "50.0"), ("4", "55.0"))
    ]
    assert [row[9:] for row in found] == [
        [by, "points", "[\u221210.0,", "+50.0]"] for by in ("+25.0", "\u22125.0")
    ]
    label = page.locator("#benchmarks [aria-label^='sums: pass@k. ']").get_attribute("aria-label")
    assert label
    assert "steered: 50.0\u202f% at k = 1, 50.0\u202f% at k = 4." in label
    told = page.locator("#benchmarks p", has_text="cross at k = 3").inner_text()
    assert "60.0\u202f% of bootstrap resamples" in told
    assert "5 are solved by both, 0 only by steered, 1 only by the base, and 2 by neither" in told
    page.locator("#benchmarks summary", has_text="only one of").click()
    only = page.locator("#benchmarks details tbody tr")
    only.first.wait_for()
    assert only.all_inner_texts() == ["1<2\tbase\t3 of 4"]


def test_strata(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    path = run / "evaluation/results.json"
    found = json.loads(path.read_text())
    rows = [{**row, "benchmark": "sums, base 0-25 %"} for row in found["rows"]]
    path.write_text(json.dumps({**found, "strata": rows}))
    titles = opened(write_report(run)).locator("#benchmarks h4").all_inner_texts()
    assert titles == ["sums", "Strata by the base's pass rate", "sums, base 0-25 %"]
