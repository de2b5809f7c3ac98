"""The folder of the run that a command does: made, locked, and dropped if nothing came of it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.cli.resumable_runs import RunInProgress, check_same_settings
from steer_lightning.system.run_files import CONFIG, METRICS, checkpoint_files, is_locked


def test_a_run_that_adds_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "any.ckpt").write_bytes(b"state")
    with closing(RunInProgress()) as run:
        assert run.folder is None
        run.begin(tmp_path / "runs", "model: {}\n", str(tmp_path / "any.ckpt"))
        assert run.folder == tmp_path / "runs/run-1"
        assert is_locked(run.folder)
        assert (run.folder / CONFIG).read_text() == "model: {}\n"
        _, previous = checkpoint_files(run.folder)
        assert previous.read_bytes() == b"state"
    assert not run.folder.exists()


def test_a_run_that_adds_something_stays_and_is_free(tmp_path: Path) -> None:
    with closing(RunInProgress()) as run:
        run.begin(tmp_path, "", None)
        assert run.folder is not None
        (run.folder / METRICS).touch()
    assert not is_locked(run.folder)
    assert {path.name for path in run.folder.iterdir()} == {CONFIG, METRICS}


def test_two_runs_know_nothing_of_each_other(tmp_path: Path) -> None:
    with closing(RunInProgress()) as one:
        one.begin(tmp_path, "", None)
        with closing(RunInProgress()) as other:
            assert other.folder is None
            other.begin(tmp_path, "", None)
        assert one.folder == tmp_path / "run-1"
        assert is_locked(one.folder)
        assert not (tmp_path / "run-2").exists()
    assert not one.folder.exists()


def test_a_setting_of_one_side_alone_differs(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_files(tmp_path)
    now = "model: {updates: {num_passes: 1}}"
    (tmp_path / CONFIG).write_text("model: {updates: {num_passes: 1, more: 2}}")
    with pytest.raises(ConfigError, match=r"model\.updates\.more = None: the run of .* had 2\."):
        check_same_settings(checkpoint, now)
    (tmp_path / CONFIG).write_text("model: {loss: null, updates: {num_passes: 1}}")
    check_same_settings(checkpoint, now)
