"""Benchmarks from local files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation import AIME24, AIME25, AMC23, MATH500, MinervaMath, OlympiadBench


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (MATH500, ("problem", "answer")),
        (AIME24, ("Problem", "Answer")),
        (AIME25, ("question", "answer")),
        (AMC23, ("problem", "answer")),
        (MinervaMath, ("problem", "solution")),
        (OlympiadBench, ("question", "answer")),
    ],
)
def test_benchmarks_from_a_local_file(kind: type, columns: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{columns[0]: f"q{k}", columns[1]: k} for k in range(3)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = kind(path=str(path), limit=2).load()
    assert [(x.question, x.answer) for x in found] == [("q0", "0"), ("q1", "1")]
    path.write_text(json.dumps({columns[0]: "q", "solved": 3}))
    with pytest.raises(ConfigError, match=f"source.answer_column = '{columns[1]}'"):
        kind(path=str(path)).load()
