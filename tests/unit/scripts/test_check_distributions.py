"""The check of a release: what a wheel lacks is told, and sdist and wheel pass twine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.check_distributions import ROOT, missing


def test_what_a_wheel_lacks_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    files = [file for name in ("configs", "project") for file in (ROOT / name).rglob("*.*")]
    names = [f"steer_lightning/{file.relative_to(ROOT)}" for file in files]
    left_out = ["steer_lightning/configs/quickstart.yaml", "steer_lightning/project/README.md"]
    assert set(left_out) < set(names)
    with zipfile.ZipFile(wheel, "w") as written:
        for name in set(names) - set(left_out):
            written.writestr(name, "")
    assert missing(wheel) == left_out
    with zipfile.ZipFile(wheel, "a") as written:
        for name in left_out:
            written.writestr(name, "")
    assert missing(wheel) == []


@pytest.mark.slow
def test_sdist_and_wheel_can_be_uploaded(tmp_path: Path) -> None:
    words = [
        sys.executable,
        str(ROOT / "scripts/check_distributions.py"),
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    assert len(list((tmp_path / "dist").iterdir())) == 2
