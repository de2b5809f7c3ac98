"""What attention and MLPs make of vectors, on the page of a run."""

from __future__ import annotations

import json
from pathlib import Path

from steer_lightning.results.report import write_report
from tests import made_up_run
from tests.browser.conftest import Open
from tests.unit.results.lens.helpers import inside


def test_attention_and_mlps_behind_each_vector(tmp_path: Path, opened: Open) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    path = run / "lens.json"
    page = opened(write_report(run))
    assert page.locator("#vectors h3", has_text="next attention").count() == 0
    path.write_text(json.dumps({**json.loads(path.read_text()), "inside": inside()}))
    page = opened(write_report(run, overwrite=True))
    assert page.locator("#vectors h3", has_text="What the next attention and MLP make").count() == 1
    label = page.locator("#vectors [aria-label^='Attention moved']").first.get_attribute(
        "aria-label"
    )
    assert label
    assert label.endswith("4: 5: 25.0\u202f% 50.0\u202f%.")
    bars = page.locator("#vectors [aria-label^='Added along the vector']")
    assert bars.get_attribute("aria-label") == "Added along the vector, by layer: 4: \u22120.75."
    page.locator("#vectors summary", has_text="Figures as a table").click()
    rows = page.locator("#vectors details table", has_text="Each vector alone").locator("tbody tr")
    rows.first.wait_for()
    first, second = (row.split("\t") for row in rows.all_inner_texts())
    assert first == [
        *("4", "5", "37.5\u202f%", "+6.2\u202f%", "\u221225.0\u202f%", "6", "12.5\u202f%"),
        *("\u22120.75", "\u22120.50", "\\x1b b", "c"),
    ]
    assert [cell for cell in second if cell] == ["8"]
