"""Goes the way of a new user: from `pip install` to vectors of a task of their own and a report.

    python scripts/first_hour.py
    python scripts/first_hour.py --folder first-hour --max_steps 20

The script builds the wheel, installs it into a new virtual environment with the versions of
constraints.txt, and works in a folder outside the clone: `init` makes a project, the script puts a
task of its own into it (differences, in a CSV file with other column names, and a reward that also
wants short answers), and `fit`, `evaluate` and `report` run on it. It prints what each command took
and ends with 0 if the accuracy rose and the report is complete, with 1 if not, with the exit status
of a command that failed, and with 69 if pip can't download anything.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGE = ("steer_lightning", "configs", "project")
NOTHING_TO_DOWNLOAD = 69  # EX_UNAVAILABLE of sysexits.h

REWARDS = '''"""The rewards of a task of one's own."""


def right(completions):
    """1 if the boxed number is the answer of the data."""
    return [float(f"boxed{{{c.answer}}}" in c.text) for c in completions]


def short(completions):
    """1 for a finished answer of at most 48 tokens."""
    return [float(c.finished and c.num_tokens <= 48) for c in completions]
'''


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources, since a build folder would hide deleted files.

    Args:
        folder: Where the copy and the wheel come to lie.

    Returns:
        The wheel.
    """
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCE:
        shutil.copy(ROOT / name, source)
    for name in PACKAGE:
        shutil.copytree(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("steer_lightning-*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Installs the wheel into a new virtual environment, with the report's extra.

    Returns:
        The environment's folder of commands.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    commands = folder / "bin"
    pip = [str(commands / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    # any package would tell whether pip can download; an install needs this one in any case
    if subprocess.run([*pip, "--upgrade", "setuptools>=77"], check=False).returncode:
        sys.exit(NOTHING_TO_DOWNLOAD)
    constraints = str(ROOT / "constraints.txt")
    subprocess.run([*pip, "-c", constraints, f"{wheel}[report]"], check=True)
    return commands


def own_task(project: Path) -> None:
    """Changes a new project to another task: its data, its columns and its rewards."""
    pairs = [(a, b) for a in range(30, 99) for b in range(11, 29)]
    random.Random(0).shuffle(pairs)
    for name, chosen in (("train", pairs[:400]), ("test", pairs[400:528])):
        with (project / f"data/{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["problem", "difference"])
            rows.writerows([f"{a}-{b}", a - b] for a, b in chosen)
        (project / f"data/{name}.jsonl").unlink()
    (project / "my_rewards.py").write_text(REWARDS)
    config = yaml.safe_load((project / "config.yaml").read_text())
    columns = {"question_column": "problem", "answer_column": "difference"}
    evaluation = config["trainer"]["callbacks"][0]["init_args"]
    held_out = evaluation["benchmarks"].pop("sums")
    evaluation["benchmarks"]["differences"] = held_out
    for name, source in (
        ("train", config["data"]["train"]),
        ("test", config["data"]["test"]),
        ("test", held_out),
    ):
        source["init_args"] = {"path": f"data/{name}.csv", **columns}
    config["model"]["rewards"] = [
        {"reward": "my_rewards.right", "weight": 1.0},
        {"reward": "my_rewards.short", "weight": 0.1},
    ]
    config["model"]["verifier"] = evaluation["verifier"] = "my_rewards.right"
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def command(commands: Path, folder: Path, *words: str) -> None:
    """Runs `steer-lightning` in a folder, without the clone on the path; says what it took."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    begin = time.monotonic()
    done = subprocess.run(
        [str(commands / "steer-lightning"), *words], cwd=folder, env=environment, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    print(f"== steer-lightning {' '.join(words)}: {time.monotonic() - begin:.0f} s", flush=True)


def check(run: Path) -> int:
    """Looks at what the run has left; returns an exit status."""
    summary = json.loads((run / "summary.json").read_text())
    before, after = (summary[f"accuracy_{when}"]["differences"] for when in ("before", "after"))
    report, evaluation = run / "report.html", run / "evaluation/results.json"
    is_complete = (
        evaluation.exists()
        and report.stat().st_mtime >= evaluation.stat().st_mtime
        and "differences" in report.read_text()
    )
    print(f"accuracy on differences: {before:.1%} before, {after:.1%} after; {report}")
    return int(not (after > before + 0.2 and is_complete))


def main() -> None:
    """Builds, installs, trains the own task and checks the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="new folder that keeps all (default: none)")
    parser.add_argument("--max_steps", type=int, default=40, help="length of the training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-hour-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        commands = install(build_wheel(folder / "wheel"), folder / "venv")
        work = folder / "work"
        work.mkdir()
        command(commands, work, "--version")
        command(commands, work, "doctor")
        command(commands, work, "init", "my-task")
        project = work / "my-task"
        own_task(project)
        length = f"--trainer.max_steps={arguments.max_steps}"
        command(commands, project, "fit", "--config", "config.yaml", length)
        command(commands, project, "evaluate", "--vectors", "runs/run-1")
        command(commands, project, "report", "runs/run-1", "--overwrite")
        status = check(project / "runs/run-1")
    sys.exit(status)


if __name__ == "__main__":
    main()
