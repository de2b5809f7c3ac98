"""The script of the first hour: the task that it makes is one, and the whole way works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.first_hour import NOTHING_TO_DOWNLOAD, ROOT, check, own_task
from steer_lightning.cli import main
from steer_lightning.data import Records


def test_the_own_task_is_another_one_than_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "mine"
    assert main(["init", str(project)]) == 0
    own_task(project)
    monkeypatch.chdir(project)
    config = yaml.safe_load(Path("config.yaml").read_text())
    (evaluation, _) = config["trainer"]["callbacks"]
    held_out = evaluation["init_args"]["benchmarks"]["differences"]
    assert held_out == config["data"]["test"]
    train, test = (
        [(row.question, row.answer) for row in Records(**source["init_args"]).load()]
        for source in (config["data"]["train"], held_out)
    )
    assert (len(train), len(test)) == (400, 128)
    assert not set(train) & set(test)
    for problem, difference in train:
        first, second = map(int, problem.split("-"))
        assert first - second == int(difference)


@pytest.mark.parametrize(
    ("after", "page", "status"), [(0.9, "differences", 0), (0.3, "differences", 1), (0.9, "", 1)]
)
def test_a_run_that_did_not_learn_or_lacks_its_report_fails(
    tmp_path: Path, after: float, page: str, status: int
) -> None:
    summary = {"accuracy_before": {"differences": 0.2}, "accuracy_after": {"differences": after}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/results.json").write_text("{}")
    (tmp_path / "report.html").write_text(page)
    assert check(tmp_path) == status
    os.utime(tmp_path / "report.html", (0, 0))
    assert check(tmp_path) == 1, "a report from before the evaluation"


@pytest.mark.slow
def test_from_the_wheel_to_an_own_task_and_its_report(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts/first_hour.py"), "--folder", str(tmp_path / "all")]
    done = subprocess.run([*words, "--max_steps=20"], capture_output=True, text=True, check=False)
    if done.returncode == NOTHING_TO_DOWNLOAD:
        pytest.skip("pip can't download anything")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy on differences: " in done.stdout
    assert (tmp_path / "all/work/my-task/runs/run-1/evaluation/results.json").exists()
