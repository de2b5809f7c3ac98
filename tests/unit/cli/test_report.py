"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning.cli import main
from steer_lightning.cli import report as command
from tests import made_up_run, made_up_sweep


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_up_run.make_run(tmp_path / "runs/run-1")


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    before = (run / "report.html").read_bytes()
    assert main(["report", "--run", str(run)]) == 2
    told = "report.html': already exists. Name another file, or set --overwrite"
    assert told in capsys.readouterr().err
    assert (run / "report.html").read_bytes() == before
    assert main(["report", "--num_steps", "1", str(run), "--overwrite"]) == 0
    assert (run / "report.html").read_bytes() != before
    (run.parent / "run-2").mkdir()  # holds nothing yet
    capsys.readouterr()
    assert main(["report", str(run.parent), f"--output={tmp_path / 'out.html'}"]) == 0
    assert f"{run} is the only run in {run.parent}" in capsys.readouterr().out
    assert "<title>runs/run-1</title>" in (tmp_path / "out.html").read_text()


def test_several_runs_are_compared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_run.make_run(run.parent / "run-10")
    other = made_up_run.make_run(tmp_path / "elsewhere")
    assert main(["report", str(run.parent)]) == 0
    page = run.parent / "report.html"
    assert capsys.readouterr().out == f"report: {page}\n"
    assert "<title>2 runs: run-1, run-10</title>" in page.read_text()
    assert main(["report", str(run), "--overwrite", str(other)]) == 0
    assert "<title>2 runs: run-1, elsewhere</title>" in page.read_text()
    assert main(["report", "--run", str(other), str(run), "--output", str(tmp_path / "o")]) == 0
    assert "<title>2 runs: elsewhere, run-1</title>" in (tmp_path / "o").read_text()
    assert not (run / "report.html").exists()
    monkeypatch.setattr(command, "MOST_RUNS", 1)
    assert main(["report", str(run.parent), "--overwrite"]) == 0
    assert f"the newest 1 of 2 runs in {run.parent}" in capsys.readouterr().out
    assert (run.parent / "run-10/report.html").exists()


def test_the_folder_of_a_sweep_gives_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made_up_sweep.make_grid(tmp_path / "rates")
    assert main(["report", str(root)]) == 0
    assert capsys.readouterr().out == f"report: {root / 'sweep.html'}\n"
    assert "<title>rates: sweep of 6 experiments</title>" in (root / "sweep.html").read_text()
    assert main(["report", str(root)]) == 2
    assert "already exists" in capsys.readouterr().err
    out = tmp_path / "elsewhere/out.html"
    assert main(["report", str(root), "--output", str(out)]) == 0
    assert '"root":"../rates"' in out.read_text(), "links lead from the page to the runs"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{tmp}/nowhere"], "there is no such folder"),
        (["{tmp}"], "holds no run"),
        (["{run}", "--num_steps=0"], "num_steps = 0: must be at least 1"),
        (["{run}", "--num_prompts=0"], "num_prompts = 0: must be at least 1"),
        (["{run}", "--output={tmp}"], "It is a folder"),
        (["{run}", "--outptu=x"], "Did you mean output"),
        ([], "run = None: must be set. Set it with --run"),
        (["--run=[]"], "must name at least one folder"),
        (["{run}", "{tmp}/nowhere"], "there is no such folder"),
    ],
)
def test_mistakes_are_told(
    run: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(tmp=tmp_path, run=run) for word in words]
    run.parent.rename(tmp_path / "elsewhere") if words == [str(tmp_path)] else None
    assert main(["report", *words]) == 2
    assert told in capsys.readouterr().err
