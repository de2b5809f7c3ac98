"""What vectors change besides the answers, in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steer_lightning.results.report import write_report
from tests import made_up_run


def row(arm: str, scale: float, **figures: float) -> dict[str, Any]:
    """The figures of an arm with intervals of 10 % to each side."""
    ends = (("", 1.0), ("_low", 0.9), ("_high", 1.1))
    found = {f"{name}{end}": by * x for name, x in figures.items() for end, by in ends}
    return {"arm": arm, "result": "", "scale": scale, "num_broken": 0, **found}


def test_side_effects_are_drawn_in_nats(tmp_path: Path, opened: Callable[..., Any]) -> None:
    run = made_up_run.make_run(tmp_path / "run-1")
    file = run / "evaluation/results.json"
    results = json.loads(file.read_text())
    results["side_effects"] = {
        "text": "<b>a text</b>",
        "num_tokens": 5000,
        "num_windows": 40,
        "base_knows_it": True,
        "rows": [
            row("base", 0.0, kl=0.0, perplexity=18.0, perplexity_ratio=1.0),
            row("steered", 1.0, kl=0.04, perplexity=20.0, perplexity_ratio=1.11),
        ],
    }
    file.write_text(json.dumps(results))
    page = opened(write_report(run))
    figure = page.locator("figure", has_text="KL to the base, in nats a token")
    shown = figure.locator("svg").first.text_content()
    assert "nats a token" in shown
    assert "accuracy" not in shown
    line = page.locator("table", has_text="perplexity / that of the base").locator("tr").last
    assert line.inner_text().split() == [
        *("steered", "0.040", "[0.036,", "0.044]"),
        *("20.0", "[18.0,", "22.0]", "1.110", "[0.999,", "1.221]"),
    ]
    assert "<b>a text</b>" in page.locator("#benchmarks").inner_text()
