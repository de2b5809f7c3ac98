"""The names of a run's files, and its folder: numbered, found, locked."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint

from steer_lightning.system import run_files
from steer_lightning.system.run_files import (
    LAST_CHECKPOINT,
    METRICS,
    SUMMARY,
    checkpoint_files,
    find_runs,
    is_locked,
    lock,
    new_run_folder,
    rollout_parts,
    run_of_checkpoint,
    step_name,
)

PACKAGE = Path(run_files.__file__).parents[1]
NAMES = {k: v for k, v in vars(run_files).items() if k.isupper() and isinstance(v, str)}


def test_lightning_calls_its_last_checkpoint_the_same() -> None:
    last = ModelCheckpoint.CHECKPOINT_NAME_LAST + ModelCheckpoint.FILE_EXTENSION
    assert last == LAST_CHECKPOINT


def test_the_map_shows_every_name() -> None:
    assert len(NAMES) > 20
    for constant, name in NAMES.items():
        assert f" {constant}" in str(run_files.__doc__), constant
        assert name in str(run_files.__doc__), name


def test_the_docs_have_the_map_with_who_writes_each_file(root: Path) -> None:
    text = (root / "docs/architecture.md").read_text()
    section = text.partition("## A run's folder")[2].partition("\n## ")[0]
    quoted = re.findall(r"`([^`]+)`", section)
    told = {name.rpartition("/")[2] for name in quoted}
    assert {name for name in NAMES.values() if "." in name} <= told
    writers = {name for name in quoted if name.endswith(".py")}
    assert len(writers) > 10
    assert all((PACKAGE.parent / name).exists() or (PACKAGE / name).exists() for name in writers)


def test_nobody_else_spells_a_file_name_out() -> None:
    files = {name for name in NAMES.values() if "." in name}
    for path in PACKAGE.rglob("*.py"):
        if path == Path(run_files.__file__):
            continue
        values = [x for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.Constant)]
        spelt = files & {value.value.rpartition("/")[2] for value in values if is_text(value)}
        assert not spelt, f"{path} spells {spelt} out"


def is_text(value: ast.Constant) -> bool:
    return isinstance(value.value, str)


def test_the_newest_run_comes_first_and_a_run_stands_for_itself(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "missing") == []
    runs = [new_run_folder(tmp_path) for _ in range(11)]
    assert [run.name for run in runs[-2:]] == ["run-10", "run-11"]
    assert find_runs(tmp_path) == []  # none has begun
    for k in (1, 9):
        (runs[k] / METRICS).write_text("step\n")
    assert find_runs(tmp_path) == [runs[9], runs[1]]
    assert find_runs(runs[1]) == [runs[1]]
    assert find_runs(runs[0]) == []
    (tmp_path / SUMMARY).write_text("{}")
    assert find_runs(tmp_path) == [tmp_path]


def test_a_run_is_locked_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    descriptor = lock(tmp_path)
    assert is_locked(tmp_path)
    os.close(descriptor)
    assert not is_locked(tmp_path)


def test_parts_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (10, 9, 100_000):
        (tmp_path / f"{step_name(step)}.parquet").touch()
    (tmp_path / ".step_000001.parquet.x").touch()  # being written
    assert [path.stem for path in rollout_parts(tmp_path)] == [
        *("step_000009", "step_000010", "step_100000")
    ]


def test_a_checkpoint_leads_back_to_its_run(tmp_path: Path) -> None:
    last, previous = checkpoint_files(tmp_path)
    assert last != previous
    assert run_of_checkpoint(last) == run_of_checkpoint(previous) == tmp_path
    assert run_of_checkpoint(Path("run-1/checkpoints/last.ckpt")) == Path.cwd() / "run-1"
