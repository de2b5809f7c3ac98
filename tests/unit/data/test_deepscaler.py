"""DeepScaleR's columns, from the hub or from a local file."""

from __future__ import annotations

import json
from pathlib import Path

from steer_lightning.data import DeepScaleR


def test_a_local_file_has_the_columns_of_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "deepscaler.jsonl"
    rows = [{"problem": f"q{n}", "answer": str(n), "solution": "s"} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = DeepScaleR(path=str(path), limit=2)
    found = source.load()
    assert source.hub_name is None
    assert [(x.question, x.answer) for x in found] == [("q0", "0"), ("q1", "1")]
    assert found[0].columns["solution"] == "s"


def test_without_a_file_it_is_the_hubs() -> None:
    assert DeepScaleR().hub_name == "agentica-org/DeepScaleR-Preview-Dataset"
