"""The command `play`: its options, those of a run, and mistakes before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer_lightning.cli import main
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.play.server import Play
from tests import played


def test_settings_and_problems_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, seen = played.make_run(tmp_path), []

    def play(self: Play, on_ready: Any) -> None:
        seen.append(self)
        on_ready("http://127.0.0.1:1/", None)

    monkeypatch.setattr(Play, "run", play)
    assert main(["play", "--vectors", str(run), "--port", "0", "--max-rows=3"]) == 0
    told = capsys.readouterr().out
    assert f"settings taken from {run}/config.yaml, unless given: template, dtype" in told
    assert "page:    http://127.0.0.1:1/; Ctrl-C ends it" in told
    assert "public" not in told
    playground = seen[0].playground
    assert isinstance(playground.models.template, PlainTemplate)
    (source,) = playground.questions._sources.values()
    assert isinstance(source, Arithmetic)
    assert (source.num_problems, source.split) == (512, "test")
    assert playground.sampling.max_new_tokens == 64
    assert (playground.models.max_rows, seen[0].host) == (3, "127.0.0.1")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prot", "1"], "prot: there is no such option. Did you mean port"),
        (["--vectors", "nowhere"], "there is no such file"),
        ([], "vectors"),
    ],
    ids=str,
)
def test_mistakes_are_one_message(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
