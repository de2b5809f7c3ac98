"""The project that `init` writes trains as it is, and each of its files counts."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from steer_lightning.cli import main
from tests.started import start


def in_a_project() -> None:
    """The command line where no clone is on the path, whose folder `callbacks` would be found."""
    own = ModuleType("callbacks")
    own.__path__ = [str(Path("callbacks").absolute())]
    sys.modules["callbacks"] = own
    runpy.run_module("steer_lightning", run_name="__main__", alter_sys=True)


def run(folder: Path, *words: str) -> CompletedProcess[str]:
    done = start(*words, folder=folder, run=in_a_project).end(300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert main(["init", str(tmp_path / "mine")]) == 0
    return tmp_path / "mine"


def commands(project: Path) -> list[list[str]]:
    """Those of the project's README, without `steer-lightning`."""
    (block,) = re.findall(r"```bash\n(.*?)```", (project / "README.md").read_text(), re.DOTALL)
    words = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [line[0] for line in words] == ["steer-lightning"] * 3
    return [line[1:] for line in words]


def test_the_readmes_three_commands_work(project: Path) -> None:
    fit, test, lens = commands(project)
    said = run(project, *fit, "--trainer.max_steps=2").stdout
    assert "mean right_answer on sums: " in said
    assert (project / "runs/run-1/steering_vectors.safetensors").exists()
    assert (project / "runs/run-1/report.html").exists()
    tested = run(project, *test, "--trainer.max_steps=2")
    assert "Be aware that when using `ckpt_path`" not in tested.stderr
    summary = json.loads((project / "runs/run-1/summary.json").read_text())
    after = summary["accuracy_after"]["sums"]
    assert float(re.findall(r"test/accuracy\W+([\d.]+)", tested.stdout)[0]) == pytest.approx(
        after, abs=0.1
    )
    assert "top tokens by dot" in run(project, *lens).stdout


@pytest.mark.slow
def test_the_project_learns_to_answer(project: Path) -> None:
    fit, _, _ = commands(project)
    run(project, *fit)
    summary = json.loads((project / "runs/run-1/summary.json").read_text())
    assert summary["accuracy_before"]["sums"] < 0.4
    assert summary["accuracy_after"]["sums"] > 0.9


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_each_file_counts(project: Path) -> None:
    replace(project / "config.yaml", "group_size: 8 ", "group_size: 4 ")
    replace(project / "config.yaml", "batch_size: 32 ", "batch_size: 6 ")
    replace(project / "config.yaml", "every_n_steps: 10", "every_n_steps: 1")
    replace(project / "my_rewards.py", "float(last_number(c.text) == c.answer)", "0.25")
    replace(project / "callbacks/my_callback.py", "completions contain", "texts hold")
    rows = [{"question": f"{a}-10", "answer": str(a - 10)} for a in range(20, 32)]
    for name, of in (("train", rows[:9]), ("test", rows[9:])):
        (project / f"data/{name}.jsonl").write_text("\n".join(map(json.dumps, of)))
    said = run(project, "fit", "--config", "config.yaml", "--trainer.max_steps=2").stdout
    assert re.search(r"sums: mean right_answer 25\.0% on 3 held-out problems", said)
    assert re.findall(r"(\d+)% of 24 texts hold 'Ones'", said)
    with (project / "runs/run-1/metrics.csv").open() as file:
        rewards = [float(row["reward/mean"]) for row in csv.DictReader(file) if row["reward/mean"]]
    assert rewards == [0.25, 0.25]
    table = pq.read_table(project / "runs/run-1/rollouts.parquet").to_pylist()
    assert len(table) == 2 * 6 * 4
    assert {row["prompt"] for row in table} <= {f"{row['question']}=?\n" for row in rows[:9]}
