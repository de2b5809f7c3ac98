"""Rows of local files: real files, real mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steer_lightning import ConfigError
from steer_lightning.data import GSM8K, Records

ROWS = [
    {"problem": "1+1", "solution": 2, "level": "easy"},
    {"problem": "2+2", "solution": 4, "level": "hard"},
]
COLUMNS = {"question_column": "problem", "answer_column": "solution"}


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        path.write_text(json.dumps(ROWS))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_local_files(tmp_path: Path, suffix: str) -> None:
    problems = Records(path=str(write(tmp_path / f"data{suffix}")), **COLUMNS).load()
    assert [(p.question, p.answer, p.columns) for p in problems] == [
        ("1+1", "2", {"level": "easy"}),
        ("2+2", "4", {"level": "hard"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{broken\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "row 1 must be a JSON object"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "{}", "list of objects"),
        ("a.json", "[", "not JSON"),
        ("a.parquet", "x", "Parquet"),
        ("a.txt", "x", r"\.csv, \.json, \.jsonl.* or in \.parquet"),
        ("a.jsonl", '{"q": "q", "answer": "a"}', "no column.*q, answer.*question_column"),
        ("a.jsonl", '{"question": "", "answer": "a"}', "both a question and an answer"),
    ],
)
def test_wrong_files_are_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        Records(path=str(tmp_path / name)).load()


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = str(write(tmp_path / "data.jsonl"))
    assert [p.question for p in Records(path=path, **COLUMNS, limit=1).load()] == ["1+1"]
    with pytest.raises(ConfigError, match="limit = 0"):
        Records(path=path, limit=0)


def test_rows_are_left_out_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "five.jsonl"
    path.write_text("".join(f'{{"question": "{k}+1", "answer": "{k + 1}"}}\n' for k in range(5)))
    asked = [p.question for p in Records(path=str(path), skip=2, limit=2).load()]
    assert asked == ["2+1", "3+1"]
    first = Records(path=str(path), limit=2).load()
    rest = Records(path=str(path), skip=2).load()
    assert first + rest == Records(path=str(path)).load()
    with pytest.raises(ConfigError, match=r"skip = 5.*has only 5 rows"):
        Records(path=str(path), skip=5).load()
    with pytest.raises(ConfigError, match="skip = -1"):
        Records(path=str(path), skip=-1)


def test_rows_keep_their_numbers_where_some_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"question": "1", "answer": "1"}\n' * 3 + '{"question": [], "answer": "1"}\n')
    with pytest.raises(ConfigError, match="row 4 of"):
        Records(path=str(path), skip=2).load()


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff\xfe"}')
    with pytest.raises(ConfigError, match="not JSON"):
        Records(path=str(tmp_path / "a.jsonl")).load()


def test_missing_files_show_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"there is no (such )?file"):
        Records(path="nowhere.jsonl")
    with pytest.raises(ConfigError, match=r"there is no (such )?file"):
        GSM8K(path="nowhere")
    with pytest.raises(ConfigError, match="not both"):
        Records()


def test_rows_without_answer_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"question": "q", "answer": "a"}\n{"question": "r", "answer": null}\n'
    )
    assert len(Records(path=str(tmp_path / "a.jsonl")).load()) == 1
    assert "dropped 1 of 2 rows" in caplog.text
