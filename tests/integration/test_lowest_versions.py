"""How the lower bounds of pyproject.toml become pins, and that the package works with them."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/lowest_versions.py"
MADE_UP = {
    "name": "made-up",
    "dependencies": ["torch>=2.6", "jsonargparse[signatures] >= 4.52", "numpy"],
    "optional-dependencies": {
        "report": ["matplotlib>=3.8"],
        "export": ["peft>=0.20", "torch>=2.6"],
        "wandb": ["wandb>=0.17"],
        "test": ["pytest==8.1", "made-up[export,report]"],
    },
}


def test_lower_bounds_become_pins() -> None:
    lowest = runpy.run_path(str(SCRIPT))["lowest"]
    assert lowest(MADE_UP, ("test",)) == [
        "torch==2.6",
        "jsonargparse[signatures]==4.52",
        "numpy",
        "pytest==8.1",
        "peft==0.20",
        "matplotlib==3.8",
    ]
    assert lowest(MADE_UP, ("wandb",))[3:] == ["wandb==0.17"]


@pytest.mark.parametrize(
    "requirement", ["torch>=2.6,<3", "torch~=2.6", "torch>2.5", "torch>=2.6;x"]
)
def test_a_bound_that_is_no_plain_lower_one_is_refused(requirement: str) -> None:
    lowest = runpy.run_path(str(SCRIPT))["lowest"]
    with pytest.raises(ValueError, match="neither name>=X nor name==X"):
        lowest({**MADE_UP, "dependencies": [requirement]}, ())


@pytest.mark.slow
def test_the_core_tests_pass_with_the_lowest_versions(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--folder", str(tmp_path / "lowest")]
    status = subprocess.run(words, check=False).returncode
    if status == runpy.run_path(str(SCRIPT))["NOTHING_TO_DOWNLOAD"]:
        pytest.skip("pip can't download anything")
    assert status == 0
