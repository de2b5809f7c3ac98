"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning.cli import main
from tests import made_up_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_up_run.make_run(tmp_path / "runs/run-1")


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    before = (run / "report.html").read_bytes()
    assert main(["report", "--run", str(run)]) == 2
    assert "report.html': exists. Name another file, or give --overwrite" in capsys.readouterr().err
    assert (run / "report.html").read_bytes() == before
    assert main(["report", "--num_steps", "1", str(run), "--overwrite"]) == 0
    assert (run / "report.html").read_bytes() != before
    (run.parent / "run-2").mkdir()  # holds nothing yet
    made_up_run.make_run(run.parent / "run-10")
    capsys.readouterr()
    assert main(["report", str(run.parent), f"--output={tmp_path / 'out.html'}"]) == 0
    told = capsys.readouterr().out
    assert f"{run.parent / 'run-10'} is the newest of 2 runs" in told
    assert "runs/run-10</title>" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{tmp}/nowhere"], "there is no such folder"),
        (["{tmp}"], "holds no run"),
        (["{run}", "--num_steps=0"], "num_steps = 0: must be at least 1"),
        (["{run}", "--num_prompts=0"], "num_prompts = 0: must be at least 1"),
        (["{run}", "--output={tmp}"], "It is a folder"),
        (["{run}", "--outptu=x"], "Did you mean output"),
        ([], "run = None: must be set. Set it by --run"),
    ],
)
def test_mistakes_are_told(
    run: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(tmp=tmp_path, run=run) for word in words]
    run.parent.rename(tmp_path / "elsewhere") if words == [str(tmp_path)] else None
    assert main(["report", *words]) == 2
    assert told in capsys.readouterr().err
