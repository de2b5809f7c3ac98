"""What every benchmark does the same way: run the real command line, and write its result down."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent


def fit(folder: Path, *words: str) -> Path:
    """Runs `steer-lightning fit` on the quickstart; returns the run's folder."""
    command = [sys.executable, "-m", "steer_lightning", "fit"]
    command += ["--config", str(ROOT / "configs/quickstart.yaml")]
    command += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return folder / "run-1"


def summary(run: Path) -> dict[str, Any]:
    """A run's `summary.json`."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def origin() -> dict[str, str]:
    """Where a result comes from: command, commit, machine, versions."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.strip(),
        "machine": f"{device}, {torch.get_num_threads()} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {version('transformers')}",
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a result with its origin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin(), **result}, indent=2) + "\n")
