"""The command that examines a machine: each line of it, and what becomes of one that fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from steer_lightning.cli import doctor, main
from steer_lightning.cli.doctor import EXAMINATIONS, Finding
from steer_lightning.system import hub_answers

LIGHT = ("steer-lightning", "libraries", "extras", "memory", "hub")


def found(name: str) -> dict[str, Finding]:
    return {finding.about: finding for finding in EXAMINATIONS[name]()}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_whole_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    told = {line["about"]: line["told"] for line in report["findings"]}
    assert report["num_faults"] == 0
    assert told["torch"] == version("torch")
    assert told["steer-lightning"].startswith(version("steer-lightning"))
    assert told["bitsandbytes"].startswith("works on ")
    assert told["training"].startswith("one step of the quickstart model in ")
    assert not list(tmp_path.iterdir()), "the trial leaves nothing"


def fails() -> Iterator[Finding]:
    yield Finding("driver", "old")
    raise OSError("it is\nbroken \x1b[2J")


def test_an_examination_that_fails_is_a_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {"driver": fails, "memory": EXAMINATIONS["memory"]}
    monkeypatch.setattr(doctor, "EXAMINATIONS", every)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"  {'driver':18} old"
    assert lines[1] == rf"! {'driver':18} OSError: it is\nbroken \x1b[2J"
    assert lines[2].startswith(f"  {'memory':18} ")
    assert lines[-1] == "findings to fix, marked with !: 1"


def test_help_and_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    assert "--json" in capsys.readouterr().out
    assert main(["doctor", "--jsno"]) == 2
    assert "doctor = '--jsno': takes no option except --json" in capsys.readouterr().err


def test_without_torch_the_other_lines_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(doctor, "EXAMINATIONS", {k: EXAMINATIONS[k] for k in (*LIGHT, "devices")})
    findings = list(doctor.examine())
    assert [finding.about for finding in findings if finding.is_fault] == ["devices"]
    assert len(findings) > 20


REQUIRES = [
    "numpy>=1.24",
    "torch>=999",
    "not-there-at-all>=2",
    'not-there-either>=1; extra == "export"',
    'numpy; extra == "report"',
]


def test_what_is_missing_or_too_old_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(doctor, "install_command", lambda extra: f"install {extra}")
    libraries = found("libraries")
    assert libraries["numpy"] == Finding("numpy", version("numpy"))
    assert libraries["torch"].told == f"{version('torch')}: must be >=999"
    assert libraries["not-there-at-all"].told == 'missing: pip install "not-there-at-all>=2"'
    assert [finding.is_fault for finding in libraries.values()] == [False, True, True]
    extras = found("extras")
    assert extras["extra report"].told == "installed"
    assert extras["extra export"].told == "without not-there-either: install export"
    assert not any(finding.is_fault for finding in extras.values())
    assert "extra dev" not in extras


def test_memory_is_read_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  16000000 kB\nMemFree:  1 kB\nMemAvailable:  2000000 kB\n")
    monkeypatch.setattr(doctor, "MEMORY", file)
    assert found("memory")["memory"].told == "2.0 GB of 16.4 GB free"
    monkeypatch.setattr(doctor, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(doctor.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10**6}.get)
    assert found("memory")["memory"].told == "4.1 GB"


def test_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("hub")["hub"].told == "not contacted: HF_HUB_OFFLINE is set"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@127.0.0.1:9")  # where nobody listens
    told = found("hub")["hub"]
    assert told.told.startswith("127.0.0.1 does not answer (URLError: ")
    assert not told.is_fault, "downloaded files can be used"
    assert "secret" not in told.told
    asked: list[str] = []
    monkeypatch.setattr(doctor, "ask", asked.append)
    assert found("hub")["hub"].told.startswith("127.0.0.1 answers within 0.0 s")
    assert asked == [hub_answers.hub_endpoint()]


def test_a_kernel_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes.optim

    def step(optimizer: torch.optim.Optimizer) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(bitsandbytes.optim.AdamW8bit, "step", step)
    told = found("bitsandbytes")["bitsandbytes"].told
    assert "(RuntimeError: no kernel image): 8-bit optimizers can't be used" in told
    monkeypatch.setattr(bitsandbytes.optim.AdamW8bit, "step", lambda optimizer: None)
    assert "has no kernel" in found("bitsandbytes")["bitsandbytes"].told
