"""The command `serve`: its options, those of a run, and mistakes before anything loads."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steer_lightning import save_vectors
from steer_lightning.cli import main
from steer_lightning.data import PlainTemplate
from steer_lightning.endpoint import server
from steer_lightning.system.run_files import CONFIG, SUMMARY


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Path:
    """The folder of a run of the quickstart."""
    folder = tmp_path / "run-1"
    path = folder / "steering_vectors.safetensors"
    save_vectors(torch.randn(4, 192), path, base_model="quickstart")
    shutil.copy(root / "configs/quickstart.yaml", folder / CONFIG)
    (folder / SUMMARY).write_text("{}")
    return folder


def test_settings_are_those_of_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []

    def serve(endpoint: server.Endpoint, on_ready: Any) -> None:
        endpoint.socket.close()
        served.append(endpoint)
        on_ready()

    monkeypatch.setattr(server.Endpoint, "run", serve)
    assert main(["serve", "--vectors", str(run), "--port", "0", "--max-rows=3"]) == 0
    told = capsys.readouterr().out
    assert f"settings taken from {run / CONFIG}, unless given: template, dtype" in told
    assert "models:  base, run-1; another scale: NAME@0.5" in told
    assert f"http://127.0.0.1:{served[0].port}/v1" in told
    template = served[0].models.template
    assert isinstance(template, PlainTemplate)
    assert template.text == "{question}=?\n"
    assert (served[0].models.max_rows, served[0].models.policy.dtype) == (3, "float32")
    assert main(["serve", "--base", "quickstart", "--port", "0"]) == 0
    assert served[1].models.template is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prot", "1"], "prot: there is no such option. Did you mean port"),
        (["--port", "x"], "port = 'x': must be a whole number"),
        (["--max_rows", "0"], "max_rows = 0: must be at least 1"),
        (["--host", "0.0.0.0"], "host = '0.0.0.0': needs a key"),
        (["--base", "elsewhere"], "base = 'elsewhere'"),
        (["--dtype", "int8"], "dtype"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_message(
    words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--vectors", str(run), "--port", "0", *words]) == 2
    assert told in capsys.readouterr().err.replace("'elsewhere/'", "'elsewhere'")


def test_without_the_extra_its_command_is_told(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--vectors", str(run)]) == 2
    told = capsys.readouterr().err
    assert "serve: needs uvicorn. Run pip install" in told
    assert "[serve]" in told
