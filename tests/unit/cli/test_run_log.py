"""The CSV log has one row for each step, and goes on if its folder is removed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from steer_lightning.cli.run_log import OPEN_ROWS, RunLog


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (1, 2):
        log.log_metrics({"reward": step / 4}, step=step)
        assert [(row["step"], row["reward"]) for row in rows(tmp_path)][-1] == (
            str(step),
            str(step / 4),
        )


def test_all_metrics_of_a_step_are_one_row(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.log_metrics({"benchmark": 0.125}, step=0)
    for step in range(1, 8):
        log.log_metrics({"reward": step / 4, "length": 17 * step}, step=step)
        if step % 3 == 0:  # the first look brings a new column, the second one does not
            log.log_metrics({"lens": torch.tensor(0.5), "a,b\n": 1}, step=step)
            assert rows(tmp_path)[-1]["lens"] == "0.5"
    log.log_metrics({"benchmark": 0.75})
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [str(step) for step in range(8)]
    assert [row["reward"] for row in found[1:]] == [str(step / 4) for step in range(1, 8)]
    assert [row["lens"] for row in found] == ["", "", "", "0.5", "", "", "0.5", ""]
    assert [row["benchmark"] for row in found] == ["0.125", *[""] * 6, "0.75"]
    assert list(found[0]) == ["a,b\n", "benchmark", "length", "lens", "reward", "step"]


def test_a_row_may_follow_late_and_grow_or_shrink(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(1, OPEN_ROWS + 2):
        log.log_metrics({"reward": 0.123456789}, step=step)
    log.log_metrics({"reward": 1}, step=2)  # a shorter text, in the oldest row that is open
    log.log_metrics({"reward": 2}, step=1)  # too late: the file is not searched
    found = [(row["step"], row["reward"]) for row in rows(tmp_path)]
    assert found[:2] == [("1", "0.123456789"), ("2", "1")]
    assert found[2:-1] == [(str(k), "0.123456789") for k in range(3, OPEN_ROWS + 2)]
    assert found[-1] == ("1", "2")


def test_a_folder_that_is_removed_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path / "run")
    log.log_metrics({"reward": 1.0}, step=1)
    shutil.rmtree(tmp_path / "run")
    log.log_metrics({"reward": 2.0}, step=1)
    assert [row["reward"] for row in rows(tmp_path / "run")] == ["2.0"]
    assert "was removed during the run: it is created again" in caplog.text
    (tmp_path / "run/metrics.csv").unlink()
    log.log_metrics({"length": 3}, step=2)
    assert rows(tmp_path / "run") == [{"length": "3", "step": "2"}]
