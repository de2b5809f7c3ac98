"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from steer_lightning.cli import COMMANDS
from steer_lightning.testing import check_reward
from steer_lightning.types import Completion

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "callbacks/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_what_exists(document: Path) -> None:
    for line in "\n".join(blocks(document, "bash")).splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["steer-lightning"]:
            assert words[1] in COMMANDS
        if words[:1] == ["make"]:
            done = subprocess.run(
                ["make", "--dry-run", words[1]], cwd=ROOT, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr
        for word in words:
            if re.search(r"^(configs|scripts|benchmarks)/", word) and "results" not in word:
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_readmes_reward_is_a_reward() -> None:
    scope: dict[str, object] = {}
    (code,) = [block for block in blocks(ROOT / "README.md", "python") if "def brevity" in block]
    exec(code, scope)
    rows = [
        Completion(text="t", question="q", answer="1", num_tokens=length, finished=finished)
        for length, finished in ((40, True), (41, True), (5, False))
    ]
    assert check_reward(scope["brevity"], rows) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_yaml_blocks_are_yaml_and_name_real_classes(document: Path) -> None:
    from importlib import import_module

    for block in blocks(document, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)
        for name in re.findall(r"steer_lightning\.[\w.]+", block):
            module, _, attribute = name.rpartition(".")
            assert hasattr(import_module(module), attribute), name


def test_the_error_shown_is_the_error_given(capsys: pytest.CaptureFixture[str]) -> None:
    from steer_lightning.cli import main

    config = str(ROOT / "configs/quickstart.yaml")
    assert main(["fit", "--config", config, "--model.sampling.group_size=1"]) == 2
    given = capsys.readouterr().err.strip().splitlines()[-1]
    assert given in " ".join((ROOT / "README.md").read_text().split())
