"""MATH from a local file."""

from __future__ import annotations

import json
from pathlib import Path

from steer_lightning.data import Math


def test_math_takes_the_solution_as_the_answer(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"problem": "p", "solution": r"so \boxed{3}", "level": 5})
    )
    assert Math(path=str(tmp_path / "m.jsonl")).load()[0].answer == r"so \boxed{3}"
