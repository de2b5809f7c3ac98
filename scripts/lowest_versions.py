"""Runs the core tests with the lowest version of each dependency that pyproject.toml allows.

    python scripts/lowest_versions.py
    python scripts/lowest_versions.py --folder /tmp/lowest --python python3.10
    python scripts/lowest_versions.py -- tests/unit -k decode -x

Each `name>=X` of the package, and of the extras that its tests need, becomes `name==X` in a virtual
environment of its own; what these packages need in turn is left to pip. The script ends with the
exit status of pytest, with 1 if pip can't install these versions together, and with 69 if pip
can't download anything at all. It needs Python 3.11; the tests run under `--python`.

On Linux, PyPI's old versions of torch bring CUDA along: 3 GB to download, 7 GB of disk. pip reads
where else to look from its own variables, for instance
`PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` for builds without CUDA.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("test", "tensorboard", "wandb")
FIT = [f"tests/integration/test_fit{part}.py" for part in ("", "_goes_on", "_mistakes")]
TESTS = ("tests/unit", *FIT, "tests/integration/test_cli.py")
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,-]+)\])?((>=|==)[\w.]+)?")
NOTHING_TO_DOWNLOAD = 69  # EX_UNAVAILABLE of sysexits.h; pytest's own end at 5

# An old release calls what a newer one that it needs has deprecated: no fault of this package.
WARNINGS = ("-W", "default::DeprecationWarning", "-W", "default::FutureWarning")


def lowest(project: dict[str, Any], extras: tuple[str, ...] = EXTRAS) -> list[str]:
    """Turns the lower bounds of a project into pins.

    Args:
        project: The table `project` of a pyproject.toml.
        extras: Extras to include; those that they name, of the same project, come with them.

    Returns:
        Requirements such as `torch==2.6`, each once; one without a version stays as it is.

    Raises:
        ValueError: If a requirement says more than a lower bound or an exact version.
    """
    pins: dict[str, None] = {}
    waiting = list(project["dependencies"])
    for extra in extras:
        waiting += project["optional-dependencies"][extra]
    while waiting:
        requirement = waiting.pop(0).replace(" ", "")
        found = REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} is neither name>=X nor name==X")
        if found["name"] == project["name"]:
            for extra in found["extras"].split(","):
                waiting += project["optional-dependencies"][extra]
        else:
            pins[requirement.replace(">=", "==")] = None
    return list(pins)


def install(python: str, folder: Path, pyproject: dict[str, Any]) -> Path:
    """Makes the environment and installs the pins and, without its dependencies, the package.

    Args:
        python: Interpreter of the environment.
        folder: Where it lies; one that is there already is brought to the pins.
        pyproject: The whole pyproject.toml.

    Returns:
        Its interpreter.
    """
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # any package would tell whether pip can download; the build needs these in any case
    if subprocess.run([*pip, "--upgrade", *pyproject["build-system"]["requires"]]).returncode:
        sys.exit(NOTHING_TO_DOWNLOAD)
    pins = lowest(pyproject["project"])
    print("installing " + " ".join(pins), flush=True)
    for words in (pins, ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]):
        if subprocess.run([*pip, *words]).returncode:
            sys.exit(1)
    return inside


def main() -> None:
    """Installs, says what was installed, and runs pytest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="keep the environment here (default: don't)")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment")
    parser.add_argument("words", nargs="*", default=TESTS, help="tests and options for pytest")
    arguments = parser.parse_args()
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    os.environ.pop("PYTHONPATH", None)  # other versions of the packages may lie there
    with tempfile.TemporaryDirectory(prefix="lowest-versions-") as temporary:
        folder = arguments.folder or Path(temporary)
        python = str(install(arguments.python, folder.resolve(), pyproject))
        subprocess.run([python, "--version"], check=True)
        subprocess.run([python, "-m", "pip", "freeze", "--exclude-editable"], check=True)
        command = [python, "-m", "pytest", "-q", *WARNINGS, *arguments.words]
        status = subprocess.run(command, cwd=ROOT).returncode
    sys.exit(status)


if __name__ == "__main__":
    main()
