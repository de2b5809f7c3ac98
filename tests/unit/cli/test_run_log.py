"""The CSV log goes on if its folder is removed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from steer_lightning.cli.run_log import RunLog


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2):
        log.log_metrics({"reward": step / 4}, step=step)
        assert [(row["step"], row["reward"]) for row in rows(tmp_path)][-1] == (
            str(step),
            str(step / 4),
        )


def test_a_folder_that_is_removed_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path / "run")
    log.log_metrics({"reward": 1.0}, step=1)
    shutil.rmtree(tmp_path / "run")
    log.log_metrics({"reward": 2.0}, step=2)
    assert rows(tmp_path / "run")[-1]["reward"] == "2.0"
    assert "was removed during the run: it is made anew" in caplog.text
