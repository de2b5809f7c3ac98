"""The file of the page: its policy, its data and its size."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path

from steer_lightning.results.report import write_report
from steer_lightning.results.report.page import SCRIPTS, as_json
from tests import made_up_run
from tests.unit.results.report.helpers import contents

REPORT = Path(__file__).parents[4] / "steer_lightning/results/report"


def test_the_policy_lets_nothing_run_but_the_pages_own_scripts(run: Path) -> None:
    page = write_report(run).read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    directives = dict(part.split(" ", 1) for part in html.unescape(policy).split("; "))
    assert directives["default-src"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in scripts]
    assert directives["script-src"] == " ".join(f"'sha256-{value}'" for value in hashes)
    assert len(scripts) == len(SCRIPTS)
    assert "unsafe" not in policy
    assert "http://" not in re.sub(r"http://www\.w3\.org/[\w./]+", "", "".join(scripts[2:]))
    assert not re.search(r"<(link|img|iframe)|\bsrc=", page.partition("<script")[0])


def test_text_can_not_end_the_data() -> None:
    hostile = "</script><!-- & \u2028 \x1b[2J \ud800 \u202e"
    text = as_json({"key<": [hostile, float("nan"), float("inf"), 1, True, None, 0.5]})
    assert not set("<>&\u2028\u202e\x1b") & set(text)
    found = json.loads(text)
    assert found == {
        "key<": [
            r"</script><!-- & \u2028 \x1b[2J \ud800 \u202e",
            *(None, None, 1, True, None, 0.5),
        ]
    }


def test_the_libraries_are_those_that_the_table_names() -> None:
    table = (REPORT / "vendor/README.md").read_text()
    files = sorted((REPORT / "vendor").glob("*.js"))
    assert files
    for file in files:
        assert f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`" in table, file.name
        assert "</script" not in file.read_text().lower()


def test_the_page_stays_small_whatever_the_run_holds(tmp_path: Path) -> None:
    long = "{step}{n}" + "x" * 30_000
    made_up_run.write_rollouts(tmp_path, range(1, 14), prompts=10, group=20, text=long)
    made_up_run.write_metrics(tmp_path, range(1, 14))
    path = write_report(tmp_path)
    assert path.stat().st_size < 5e6
    groups = contents(tmp_path)["training"]["groups"]
    per_step = {step: sum(g["step"] == step for g in groups) for step in range(1, 14)}
    assert set(per_step.values()) <= {0, 3, 4}, "the budget is shared by the steps"
    assert "characters left out" in groups[0]["completions"][0]["text"]
