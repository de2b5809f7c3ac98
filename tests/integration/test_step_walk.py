"""The way of a step in docs/architecture.md is the way that a step takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

MOST_FILES, MOST_ROOMS = 24, 10
"""A step that enters more is harder to follow; think before either is raised."""


def test_the_walk_of_the_docs_is_that_of_a_step(root: Path) -> None:
    command = [sys.executable, str(root / "scripts/step_walk.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    walked = re.findall(r"^ *\d+  (\S+\.py) ", done.stdout, re.MULTILINE)
    rooms = done.stdout.splitlines()[-1].partition(": ")[2].split(", ")
    assert len(walked) <= MOST_FILES
    assert len(rooms) <= MOST_ROOMS
    section = (root / "docs/architecture.md").read_text().partition("## The way of a step")[2]
    told = re.findall(r"^\| (\d+) \| `(\S+\.py)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert told == [(str(k), file) for k, file in enumerate(walked, 1)]
