"""What a model writes is shown, and never run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steer_lightning.results.report import write_comparison, write_report
from tests import made_up_run
from tests.browser.conftest import Open, open_all

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PAYLOADS = (
    "</script><script>owned=1</script>",
    "<img src=x onerror=owned=1>",
    "<svg/onload=owned=1>",
    "<!--<script>",
    '" autofocus onfocus="owned=1',
    "'-owned-'",
    "javascript:owned=1",
    '<a href="javascript:owned=1">here</a>',
    "<iframe srcdoc='<script>parent.owned=1</script>'>",
    "<style>*{display:none}</style>",
    "]]>&lt;script&gt;owned=1&lt;/script&gt;",
    "${owned=1} {{owned=1}} $owned $$",
    "line\u2028owned=1\u2029",
    "\x1b[2J\x1b]0;owned\x07\x00\x08",
    "right \u202eto\u202c left",
    "\ud800 alone",
)
SHOWN = {
    "line\u2028owned=1\u2029": r"line\u2028owned=1\u2029",
    "\x1b[2J\x1b]0;owned\x07\x00\x08": r"\x1b[2J\x1b]0;owned\x07\x00\x08",
    "right \u202eto\u202c left": r"right \u202eto\u202c left",
    "\ud800 alone": r"? alone",
}
"""Controls are shown as escapes; Arrow has made a question mark of the surrogate."""


def hostile_run(folder: Path) -> Path:
    """A run with such texts wherever text can stand."""
    run = made_up_run.make_run(folder)
    valid = [payload.encode("utf-8", "replace").decode() for payload in PAYLOADS]
    steps = [
        made_up_run.rollouts(step, 1, 2, text, text) for step, text in enumerate(valid, start=1)
    ]
    pq.write_table(pa.concat_tables(steps), run / "rollouts.parquet")
    made_up_run.write_lens(run)
    lens = json.loads((run / "lens.json").read_text())
    for row in lens["layers"]:
        row["top"]["dot"] = [[payload, 1.0] for payload in PAYLOADS]
    (run / "lens.json").write_text(json.dumps(lens))
    made_up_run.write_summary(
        run,
        versions={payload: payload for payload in PAYLOADS},
        base_model=" ".join(PAYLOADS),
        warnings=[*PAYLOADS],
        accuracy_after=dict.fromkeys(PAYLOADS, 0.5),
    )
    source = {"class_path": "a.Records", "init_args": {"hub_name": " ".join(valid)}}
    made_up_run.write_config(run, seed_everything=valid, data={"train": source})
    row = {"arm": PAYLOADS[0], "metric": f"avg@{PAYLOADS[1]}", "value": 0.5}
    rows = [{**row, "benchmark": payload} for payload in PAYLOADS]
    (run / "evaluation/results.json").write_text(json.dumps({"rows": rows}))
    names = ["step", *(text for text in valid if "\x00" not in text)]
    with (run / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, [1] * len(names)])
    return run


def nothing_ran(page: Page) -> bool:
    strange = "img, iframe, a[href^=java], main style:not(svg > style), script:not(body > script)"
    found = page.evaluate("(strange) => document.querySelector(strange)?.outerHTML", strange)
    return found is None and bool(page.evaluate("typeof owned === 'undefined'"))


def test_hostile_text_is_shown_and_runs_nothing(tmp_path: Path, opened: Open) -> None:
    page = opened(write_report(hostile_run(tmp_path / "run-1"), num_steps=len(PAYLOADS)))
    open_all(page)
    more = page.get_by_role("button", name="Show more")
    while more.is_visible():
        more.click()
    prompts = page.locator(".prompt").all_inner_texts()
    completions = page.locator(".completion .text").all_inner_texts()
    tokens = page.locator("#vectors tr:nth-child(1) .token").all_inner_texts()
    seen = {name: page.locator(f"#{name}").text_content() for name in ("benchmarks", "setup")}
    seen["curves"] = page.locator("#curves").text_content()
    head = {name: page.locator(name).text_content() for name in ("h1", "#base", "#status")}
    for k, payload in enumerate(PAYLOADS):
        text = SHOWN.get(payload, payload)
        own = text.replace("? alone", r"\ud800 alone")  # of files that can hold it
        assert prompts[k] == text
        assert completions[2 * k : 2 * k + 2] == [text, text]
        if k < 12:
            assert tokens[k] == own.replace(" ", "\u2423") + "\n1"
        assert own in seen["benchmarks"]
        assert own in seen["setup"]
        assert own in head["#base"]
        assert own in head["#status"]
        assert "\x00" in payload or text in head["h1"]
        assert "\x00" in payload or text in seen["curves"]
    page.fill("#search", PAYLOADS[0])
    assert page.inner_text(".count") == "2 of 32 completions, of 1 prompts"
    assert page.locator("mark").all_inner_texts() == [PAYLOADS[0]] * 3
    assert "could not be drawn" not in page.inner_text("main")
    page.wait_for_timeout(50)
    assert nothing_ran(page)


def test_hostile_runs_are_compared_and_run_nothing(tmp_path: Path, opened: Open) -> None:
    names = [payload for payload in PAYLOADS if not set("/\x00\ud800") & set(payload)]
    runs = [hostile_run(tmp_path / name) for name in names]
    for number, run in enumerate(runs):
        settings = {payload: f"{payload} {number}" for payload in PAYLOADS if "\x1b" not in payload}
        made_up_run.write_config(run, **{k: v for k, v in settings.items() if "\ud800" not in k})
    page = opened(write_comparison(runs, tmp_path / "out.html"))
    heads = page.locator("#settings thead th").all_inner_texts()
    shown = [SHOWN.get(name, name) for name in names]
    assert heads == ["setting", *shown]
    seen = {name: page.locator(f"#{name}").text_content() for name in ("results", "settings")}
    for payload in PAYLOADS:
        text = SHOWN.get(payload, payload).replace("? alone", r"\ud800 alone")
        assert text in seen["results"]
        assert "\x1b" in payload or "\ud800" in payload or f"{text} 1" in seen["settings"]
        assert text in page.locator("#status").text_content()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download settings that differ").click()
    assert saved.value.suggested_filename == "comparison-settings-that-differ.csv"
    with Path(saved.value.path()).open(newline="") as file:
        first, *rows = list(csv.reader(file))
    assert first[1:] == shown
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@")]
    assert "could not be drawn" not in page.inner_text("main")
    assert nothing_ran(page)


def test_should_a_script_get_in_the_policy_stops_it(report: Path, opened: Open) -> None:
    hostile = (
        "<script>owned = 1</script><img src=x onerror='owned = 1'><style>h1 {display: none}</style>"
        "<svg onload='owned = 1'></svg><a href='javascript:owned=1' id=link>here</a>"
        "<form action='https://example.org'></form><base href='https://example.org/'>"
        "<script src='https://example.org/x.js'></script><link rel=stylesheet href='x.css'>"
    )
    path = report.with_name("tampered.html")
    path.write_text(
        report.read_text().replace('<main id="content"', hostile + '<main id="content"')
    )
    page = opened(path, quiet=False)
    assert page.evaluate("typeof owned") == "undefined"
    assert page.locator("h1").is_visible()
    page.click("#link")
    assert page.evaluate("typeof owned") == "undefined"
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<p>markup</p>'")
