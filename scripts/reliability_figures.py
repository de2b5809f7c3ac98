"""Runs tests/reliability and writes the figures into docs/explanation/reliability.md.

pip install -e ".[dev,fuzz]"
python scripts/reliability_figures.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/explanation/reliability.md"

ROWS = (
    ("hostile_completions", "hostile completions scored by `MathReward`, each with a verdict"),
    ("hostile_timed_out", "... of them ended by the deadline (1 s in this test)"),
    ("hostile_crashed", "... of them that crashed a worker or the comparison"),
    ("reward_deeds", "kinds of misbehaviour of a user's reward, all survived"),
    ("kills", "SIGKILLs of one run: in a step, while saving, at random; the end is bit-identical"),
    ("flipped_bits", "bits of a checkpoint flipped, one at a time"),
    ("flipped_bits_noticed", "... of them noticed; the others change nothing that is loaded"),
    ("hostile_vectors_files", "hostile vectors files, all refused with a message"),
    ("faults", "faults around a run: processes, folders, hub, data; each survived or reported"),
    ("fuzzed_properties", "properties checked by hypothesis"),
    ("fuzz_examples", "... examples of each; fewer for whole configurations"),
    ("atheris_answers", "inputs to answer extraction, guided by coverage"),
    ("atheris_vectors", "inputs to the vectors loader, guided by coverage"),
)


def main() -> None:
    """Runs the tests and writes what they counted."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "STEER_LIGHTNING_FIGURES": folder}
        command = [sys.executable, "-m", "pytest", "-m", "slow or not slow", "tests/reliability"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if ended.returncode:
            sys.exit("the figures are written when all tests pass")
        found = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    minutes = (time.monotonic() - start) / 60
    lines = ["| tried | count |", "|---|---|"]
    lines += [f"| {text} | {found.get(name, 0):,} |" for name, text in ROWS]
    note = f"Measured on {date.today()}, in {minutes:.0f} minutes on {os.cpu_count()} cores."
    table = "\n".join(["<!-- figures -->", *lines, "", note, "<!-- end -->"])
    pattern = re.compile("<!-- figures -->.*<!-- end -->", re.DOTALL)
    DOCUMENT.write_text(pattern.sub(lambda _: table, DOCUMENT.read_text()))
    print(table)


if __name__ == "__main__":
    main()
