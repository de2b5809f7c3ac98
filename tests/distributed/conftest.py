"""Runs of several processes, with the configuration of the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import Config, config, tiny_base  # noqa: F401  # fixtures
from tests.started import ROOT, all_end, node

LIGHTNING = (sys.executable, "-m", "steer_lightning")
"""The first process starts the others."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


@dataclass(frozen=True)
class Ended:
    """What the processes of a run came to."""

    processes: list[subprocess.CompletedProcess[str]]

    @property
    def statuses(self) -> list[int]:
        return [process.returncode for process in self.processes]

    @property
    def stderr(self) -> str:
        return "".join(process.stderr for process in self.processes)

    @property
    def stdout(self) -> str:
        return "".join(process.stdout for process in self.processes)

    def succeeded(self) -> bool:
        return set(self.statuses) == {0}


Fit = Callable[..., Ended]


@pytest.fixture
def plain_steps(config: Config) -> Config:  # noqa: F811
    """Plain steps on the gradient, so that the vectors are its sum."""
    config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    config["model"]["gradient_clip"] = {
        "class_path": "steer_lightning.optim.NormClip",
        "init_args": {"max_norm": 1e6},
    }
    config["model"]["tokens_per_micro_batch"] = 24  # processes have unequal numbers of passes
    config["trainer"].update(max_steps=2)
    return config


@pytest.fixture
def fit(plain_steps: Config, tmp_path: Path) -> Fit:
    """Runs the command line with several processes."""

    def call(
        processes: int,
        strategy: Any = "auto",
        *words: str,
        launcher: tuple[str, ...] = (),
        command: str = "fit",
    ) -> Ended:
        plain_steps["trainer"].update(devices=processes, strategy=strategy)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain_steps))
        words = (command, "--config", "config.yaml", *words)
        if not launcher:
            return Ended(all_end(node(*words, folder=tmp_path, processes=processes)))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*launcher, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Ended([done])

    return call
