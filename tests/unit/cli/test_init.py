"""The command that writes a project; tests/integration/test_project.py trains with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning.cli import main
from steer_lightning.cli.shipped import shipped_folder

NAMES = {
    *("README.md", "callbacks/my_callback.py", "config.yaml", "my_rewards.py"),
    *("data/test.jsonl", "data/train.jsonl"),
}


def test_a_project_is_written_and_its_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my-project"]) == 0
    folder = tmp_path / "my-project"
    assert {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()} == NAMES
    for name in NAMES:
        assert (folder / name).read_bytes() == (shipped_folder("project") / name).read_bytes()
    told = capsys.readouterr().out.splitlines()
    assert {line.strip() for line in told[: len(NAMES)]} == {f"my-project/{x}" for x in NAMES}
    assert told[-2:] == ["cd my-project", "steer-lightning fit --config config.yaml"]
    assert list(tmp_path.iterdir()) == [folder], "nothing temporary is left"


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    for name in ("there", "file"):
        assert main(["init", str(tmp_path / name)]) == 2
        assert f"{name}': already exists. Name a new folder" in capsys.readouterr().err
    assert main(["init"]) == 2
    assert "folder = None: must be set" in capsys.readouterr().err
    assert not list((tmp_path / "there").iterdir())


def test_the_problems_are_sums_and_none_is_in_both_files() -> None:
    found: dict[str, set[str]] = {}
    for split, num_problems in (("train", 1024), ("test", 128)):
        text = (shipped_folder("project") / f"data/{split}.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            a, b = map(int, row["question"].split("+"))
            assert row == {"question": f"{a}+{b}", "answer": str(a + b)}
        found[split] = {row["question"] for row in rows}
        assert len(found[split]) == len(rows) == num_problems
    assert not found["train"] & found["test"]
