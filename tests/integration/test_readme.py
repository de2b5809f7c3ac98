"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from steer_lightning import save_vectors
from steer_lightning.cli import COMMANDS, main
from steer_lightning.testing import check_reward
from steer_lightning.training.resume import KEY
from steer_lightning.types import Completion

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "callbacks/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


TRAINING = ("fit", "validate", "test")
HUB = {"Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-Math-1.5B", "user/name"}
"""Commands with these need the hub; all others are run."""


FEWER = {
    "difference": ["--num_prompts=16", "--num_held_out=8", "--scales=[0.1]", "--overwrite"],
    "evaluate": ["--benchmarks.arithmetic.init_args.num_problems=20"],
}
"""What makes a command shorter than it stands."""


AT_FIRST = [ROOT / "README.md", *(ROOT / "docs/start").glob("*.md")]
"""What a new user reads first; the commands of other documents are run by the slow tests."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository's configurations and two finished runs of the quickstart."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "configs").symlink_to(ROOT / "configs")
    command = [sys.executable, "-m", "steer_lightning", "fit"]
    command += ["--config", "configs/quickstart.yaml", "--trainer.max_steps=2"]
    # one thread: several that wait for each other on cores that other tests use take minutes
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    shutil.copytree(folder / "runs/quickstart/run-1", folder / "runs/quickstart/run-2")
    return folder


def commands_of(document: Path) -> Iterator[list[str]]:
    """The words of the commands that a document shows and no earlier one."""
    for line in lines_of(document):
        if FIRST[line] == document:
            yield shlex.split(line, comments=True)


def lines_of(document: Path) -> list[str]:
    return "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()


FIRST: dict[str, Path] = {}
for _document in DOCUMENTS:
    FIRST.update((line, _document) for line in lines_of(_document) if line not in FIRST)
"""The first document that shows a command."""


def is_run(words: list[str]) -> bool:
    """Whether a command is run here, for it is quick and needs no hub."""
    return words[:1] == ["steer-lightning"] and words[1] not in TRAINING and not HUB & set(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_are_right_as_they_stand(
    document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for words in commands_of(document):
        if words[:1] == ["steer-lightning"] and words[1] in TRAINING:
            check_command(words[1:], monkeypatch, tmp_path)
        elif words[:1] == ["steer-lightning"]:
            assert words[1].startswith("-") or words[1] in COMMANDS, words
        if words[:1] == ["make"]:
            make = ["make", "--dry-run", words[1]]
            done = subprocess.run(make, cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        for word in words:
            if re.search(r"^(configs|scripts|benchmarks)/", word) and "results" not in word:
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, marks=[] if path in AT_FIRST else pytest.mark.slow)
        for path in DOCUMENTS
        if any(map(is_run, commands_of(path)))
    ],
    ids=name_of,
)
def test_commands_work_as_they_stand(
    document: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    monkeypatch.chdir(work)
    for words in filter(is_run, commands_of(document)):
        assert main([*words[1:], *FEWER.get(words[1], [])]) == 0, words


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Parses a line of a document and builds all its objects; only the run itself is left out."""
    from steer_lightning.cli import fit

    assert words[0] in COMMANDS
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}')
    for placeholder in ("/models/my-qwen", "FOLDER"):
        words = [word.replace(placeholder, str(folder)) for word in words]
    (folder / "config.json").touch()  # of a base
    (folder / "run-1/checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save({KEY: {}}, folder / "run-1/checkpoints/last.ckpt")
    ran: list[str] = []
    cli = fit.SteeringCLI
    extra = [f"--trainer.default_root_dir={folder}", "--trainer.accelerator=cpu"]
    with monkeypatch.context() as patched:
        patched.setattr(cli, "_run_subcommand", lambda self, name: ran.append(name))
        patched.chdir(ROOT)
        assert main([*words, *extra]) == 0
    assert ran == words[:1]


CLONE = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", *ROOT.glob("configs/**/*.yaml")]
CLONE += [*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")]


@pytest.mark.parametrize("document", CLONE, ids=name_of)
def test_an_install_from_a_clone_is_editable(document: Path) -> None:
    """Without `-e` it would replace the editable install, and edits would have no effect."""
    for line in document.read_text().splitlines():
        assert not re.search(r"pip install (?!.*-e )[^`\n]*[\"' ]\.(\[|[\"' ]|$)", line), line


def test_what_commands_of_the_documents_write_is_ignored_by_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    lines = "\n".join(block for path in DOCUMENTS for block in blocks(path, "bash"))
    written = re.findall(r"^steer-lightning .*--output[ =](\S+)", lines, re.MULTILINE)
    assert len(written) > 8
    words = ["git", "check-ignore", "--no-index", *written, "runs/x", "evaluation/x"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == {*written, "runs/x", "evaluation/x"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
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
    assert check_reward(scope["brevity"]) == [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_yaml_blocks_are_yaml_and_name_real_classes(document: Path) -> None:
    from importlib import import_module

    for block in blocks(document, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)
        for name in re.findall(r"steer_lightning\.[\w.]+", block):
            module, _, attribute = name.rpartition(".")
            assert hasattr(import_module(module), attribute), name


def test_the_readmes_python_runs_as_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = [block for block in blocks(ROOT / "README.md", "python") if "attach" in block]
    path = tmp_path / "runs/quickstart/run-1/steering_vectors.safetensors"
    save_vectors(30 * torch.randn(4, 192), path, base_model="quickstart")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code, scope)
    told = capsys.readouterr().out
    assert told.count("59+63=?") == 2
    assert told.endswith(", base quickstart)\n")
    assert not torch.equal(scope["steered"], scope["base"])
    plain = scope["load_model"]("quickstart")[0].generate(
        **scope["question"], max_new_tokens=64, do_sample=False
    )
    assert torch.equal(plain, scope["base"]), "outside the block it is the base again"


def test_the_error_shown_is_the_error_given(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "configs/quickstart.yaml")
    assert main(["fit", "--config", config, "--model.sampling.group_size=1"]) == 2
    given = capsys.readouterr().err.strip().splitlines()[-1]
    assert given in " ".join((ROOT / "README.md").read_text().split())


def test_the_tables_are_those_of_the_results() -> None:
    words = [sys.executable, str(ROOT / "benchmarks/tables.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<!-- table" in (ROOT / "docs/explanation/performance.md").read_text()
