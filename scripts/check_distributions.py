"""Builds sdist and wheel as a release does, and checks them with twine.

    python scripts/check_distributions.py
    python scripts/check_distributions.py --folder /tmp/release

`build` makes the sdist, and the wheel from the sdist, so that a file which the sdist lacks is
missing in the wheel, too; a test looks into the wheel. Both tools come into a virtual environment
of their own, from PyPI. The script ends with 0, or with the exit status of what failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("build==1.6.1", "twine==7.0.0")
SHIPPED = ("configs", "project")


def missing(wheel: Path) -> list[str]:
    """Returns the files of `configs` and `project` that a wheel lacks, by their names in it."""
    files = [file for name in SHIPPED for file in (ROOT / name).rglob("*") if file.is_file()]
    wanted = {f"steer_lightning/{file.relative_to(ROOT).as_posix()}" for file in files}
    wanted = {name for name in wanted if "__pycache__" not in name}
    return sorted(wanted - set(zipfile.ZipFile(wheel).namelist()))


def check(folder: Path) -> int:
    """Builds into a folder and checks what is there; returns an exit status."""
    python = folder / "venv/bin/python"
    output = folder / "dist"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands = [
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [*pip, *TOOLS],
        [str(python), "-m", "build", "--outdir", str(output), str(ROOT)],
    ]
    for command in commands:
        done = subprocess.run(command, check=False)
        if done.returncode:
            return done.returncode
    (wheel,) = output.glob("*.whl")
    lacking = missing(wheel)
    if lacking:
        print(f"{wheel.name} lacks {', '.join(lacking)}")
        return 1
    files = [str(file) for file in sorted(output.iterdir())]
    return subprocess.run(
        [python, "-m", "twine", "check", "--strict", *files], check=False
    ).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to build; default: a temporary folder")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(check(given or Path(temporary)))
