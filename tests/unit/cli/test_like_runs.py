"""Settings of a run are taken for what is made from its vectors, unless they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer_lightning.cli.like_runs import made_like_runs
from steer_lightning.errors import ConfigError
from tests import played


class Made:
    """Remembers its options.

    Args:
        vectors: Folder of a run.
        dtype: Dtype of the base.
        size: A number.
    """

    def __init__(self, vectors: str, dtype: str = "auto", size: int = 1) -> None:
        self.options = (vectors, dtype, size)


def make(*words: str, keys: tuple[str, ...] = ("dtype", "revision")) -> Any:
    others = ("benchmarks", "sampling", "template", "max_prompt_tokens")
    return made_like_runs(words, Made, prog="x", description="A test.", keys=keys, others=others)


def test_settings_are_those_of_the_run_unless_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(played.make_run(tmp_path))
    assert make("--vectors", run, "--size=3").options == (run, "float32", 3)
    told = capsys.readouterr().out
    assert told == f"settings taken from {run}/config.yaml, unless given: dtype\n"
    assert make("--vectors", run, "--dtype=bfloat16").options == (run, "bfloat16", 1)
    assert make("--vectors", run, keys=()).options == (run, "auto", 1)
    capsys.readouterr()
    assert make("--vectors", "file.safetensors").options[1] == "auto"
    assert capsys.readouterr().out == ""


def test_mistakes_are_those_of_the_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"siz = '3': there is no such option. Did you mean size"):
        make("--vectors", str(played.make_run(tmp_path)), "--siz=3")
