"""Every command that reads a vectors file shows hostile metadata, and sends none of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steer_lightning import load_vectors
from steer_lightning.cli import main
from steer_lightning.testing import save_tiny

HOSTILE = "org/\x1b]0;owned\x07\x1b[2Jmodel\nerror: fake\u202e\u2028"
SHOWN = r"org/\x1b]0;owned\x07\x1b[2Jmodel\nerror: fake\u202e\u2028"
COMMANDS: Any = r"[\x00-\x06\x07\x0b\x0c\x0e-\x1a\x7f-\x9f\u202e\u2028]|\x1b\]|\x1b\[2J"
"""What a terminal obeys; progress bars send carriage returns, and move the cursor."""


@pytest.fixture
def base(tmp_path: Path) -> str:
    return save_tiny(tmp_path / "base")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "v.safetensors"
    metadata = {"format_version": "1", "site": "layer_output", "layers": "[0, 1, 2]"}
    metadata |= {"num_layers": "3", "width": "32", "base_model": HOSTILE, "revision": HOSTILE}
    save_file({"vectors": torch.randn(3, 32)}, path, {**metadata, "step": HOSTILE, "x\x1b]0": "y"})
    return path


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is logged is checked, too."""
    yield
    for record in caplog.get_records("call"):
        check(record.getMessage())


def check(text: str) -> None:
    assert not re.search(COMMANDS, text)
    assert not [line for line in text.splitlines() if line.startswith("error: fake")]


def run(words: list[str], capfd: pytest.CaptureFixture[str], status: int = 0) -> str:
    found = main(words)
    out, err = capfd.readouterr()
    check(out)
    check(err)
    assert found == status, err
    return out + err


def test_vectors_info(vectors: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = run(["vectors", "info", str(vectors)], capfd)
    for name in ("base      ", "revision  ", "step      "):
        assert f"\n{name}{SHOWN}\n" in told


def test_arithmetic_writes_what_it_shows(
    vectors: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.safetensors"
    words = ["vectors", "add", str(vectors), str(vectors), "--output", str(made)]
    assert f"base      {SHOWN}\n" in run(words, capfd)
    words = ["vectors", "scale", str(vectors), "--factor", "2", "--output", str(tmp_path / "2")]
    run(words, capfd)
    assert load_vectors(tmp_path / "2").metadata["step"] == "", "that of the file was no number"
    header = made.read_bytes()[8:]
    size = int.from_bytes(made.read_bytes()[:8], "little")
    assert json.loads(header[:size])["__metadata__"]["base_model"] == SHOWN


def test_lens(vectors: Path, base: str, capfd: pytest.CaptureFixture[str]) -> None:
    told = run(["lens", "--vectors", str(vectors), "--base", base], capfd)
    assert f"{base}: 3 vectors" in told
    run(["lens", "--vectors", str(vectors), "--overwrite"], capfd, status=2)


@pytest.mark.parametrize("to", ["transformers", "peft", "gguf", "easysteer"])
def test_export(
    to: str, vectors: Path, base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--vectors", str(vectors), "--to", to, "--output", str(tmp_path / "out")]
    run([*words, "--merge-from", base, "--verify=false"], capfd)
    for path in (tmp_path / "out").iterdir():
        if path.suffix in (".md", ".json"):
            check(path.read_text())
    run([*words, "--overwrite"], capfd, status=2)  # of the base that the file names


def test_evaluate(
    vectors: Path, base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "evaluate.yaml"
    source = {"class_path": "steer_lightning.data.Arithmetic", "init_args": {"num_problems": 2}}
    template = {"class_path": "steer_lightning.data.PlainTemplate"}
    sampling = {"group_size": 1, "max_new_tokens": 2}
    settings = {"benchmarks": {"sums": source}, "template": template, "sampling": sampling}
    settings |= {"reward_pool": {"num_workers": 1}}
    config.write_text(json.dumps(settings))
    words = ["evaluate", "--config", str(config), "--vectors", str(vectors), "--base", base]
    told = run([*words, "--output", str(tmp_path / "found")], capfd)
    assert "steered" in told
    words = words[:-2]  # the base that the file names
    run([*words, "--output", str(tmp_path / "none")], capfd, status=2)


def test_names_of_files_are_one_line_in_tables(
    vectors: Path, base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "b\x1b[2J\nerror: fake.safetensors"
    other.write_bytes(vectors.read_bytes())
    words = ["lens", "--vectors", str(vectors), str(other), "--base", base]
    told = run([*words, "--output", str(tmp_path / "lens")], capfd)
    assert r"v (rows) and b\x1b[2J\nerror: fake (columns)" in told
