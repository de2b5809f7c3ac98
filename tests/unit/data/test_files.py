"""Files as people have them: endings, encodings, packed ones, damaged ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import GSM8K, Records
from steer_lightning.data import files as data_files
from steer_lightning.data.files import read_file

ROWS = [
    {"question": "Wieviel ist 2+3? é漢🙂", "answer": "5"},
    {"question": 'say "six",\nin two lines', "answer": "6"},
]
READ = [(row["question"], row["answer"]) for row in ROWS]


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def lines(rows: list[dict[str, str]] = ROWS, end: str = "\n") -> str:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows)


def table(rows: list[dict[str, str]] = ROWS) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def load(path: Path) -> list[tuple[str, str]]:
    return [(p.question, p.answer) for p in Records(path=str(path)).load()]


TEXTS = {".jsonl": lines(), ".ndjson": lines(), ".json": json.dumps(ROWS), ".csv": table()}


@pytest.mark.parametrize("ending", TEXTS)
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-16", b""),  # Python writes a byte order mark of its own
        ("utf-16-le", b""),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-32", b""),
    ],
)
def test_every_ending_in_every_encoding(
    tmp_path: Path, ending: str, encoding: str, mark: bytes
) -> None:
    content = mark + TEXTS[ending].encode(encoding)
    plain, small = tmp_path / f"My.Data.v1{ending.upper()}", tmp_path / f"data{ending}.gz"
    plain.write_bytes(content)
    small.write_bytes(packed(content))
    assert load(plain) == load(small) == READ


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \t\r\n"])
def test_line_ends_and_blank_lines(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.jsonl").write_bytes((lines(end=end) + end).encode())
    assert load(tmp_path / "a.jsonl") == READ
    (tmp_path / "a.csv").write_bytes(f"question,answer{end}a,1{end}b,2{end}".encode())
    if end.strip(" \t\r\n") == "" and "\t" not in end:  # a line of blanks is a field in a CSV
        assert load(tmp_path / "a.csv") == [("a", "1"), ("b", "2")]


def test_characters_that_look_like_line_ends_stay_in_their_line(tmp_path: Path) -> None:
    question = "a\u2028b\x85c\x0bd"
    rows = [{"question": question, "answer": "5"}]
    (tmp_path / "a.jsonl").write_text(lines(rows), encoding="utf-8")
    (tmp_path / "a.csv").write_text(table(rows), encoding="utf-8", newline="")
    assert load(tmp_path / "a.jsonl") == load(tmp_path / "a.csv") == [(question, "5")]


def test_a_blank_field_of_a_csv_is_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text("question,answer\na,1\nb,\n , 3\nd,4\n")
    assert load(tmp_path / "a.csv") == [("a", "1"), ("d", "4")]
    assert "dropped 2 of 4 rows without question or answer, the first being row 2" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"question,answer\n", "holds no rows"),
        ("a.csv", b"question,answer\na,1\nb,2,3\n", "row 2 has 3 fields for 2 columns"),
        ("a.csv", b"question,answer\na\n", "row 1 has 1 fields for 2 columns"),
        ("a.csv", b"question,answer,answer\na,1,2\n", "names the columns 'answer' twice"),
        ("a.csv", b'question,answer\n"a,1\n', "row 1 is not CSV"),
        (
            "a.csv",
            b"question;answer\na;1\n",
            "no column 'question'. Its columns are question;answer",
        ),
        ("a.csv", b"question,answer\na,\xe9\n", "is not CSV: some of its bytes are not utf-8 text"),
        (
            "a.jsonl",
            b'{"question": "\xe9"}',
            "is not JSON lines: some of its bytes are not utf-8 text",
        ),
        ("a.json", b'[{"question": "\xe9"}]', "is not JSON: some of its bytes are not utf"),
        ("a.jsonl.gz", b"{}", "is damaged, or not compressed by gzip"),
        ("a.jsonl.gz", packed(lines().encode())[:-20], "is damaged, or not compressed by gzip"),
        ("a.jsonl.gz", packed(b""), "holds no rows"),
        ("a.jsonl.gz", packed(b'\n{"a": 1}\n{oops'), "line 3 is not JSON"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": 1, "b": 2, "b": 2}',
            "line 2 has the name 'b' twice in an obj",
        ),
        ("a.json", b'[{"a": {"b": 1, "c": 2, "b": 3}}]', ": has the name 'b' twice in an object"),
        ("a.gz", packed(lines().encode()), "must end in"),
        ("a.parquet.gz", packed(b"PAR1"), "must end in"),
        ("a.txt", b"x", r"must end in \.csv, \.json, \.jsonl, \.ndjson, each .* or in \.parquet"),
        ("jsonl", b"x", "must end in"),
    ],
)
def test_damaged_files_are_refused_in_words(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Records(path=str(tmp_path / name)).load()


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_packed_file_does_not_unfold_into_all_memory(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MAX_UNFOLDED", 10**5)
    monkeypatch.setattr(data_files, "MAX_RATIO", 10)
    rows = [{"question": "q" * 1000, "answer": "1"}] * 1000
    text = {".jsonl": lines(rows), ".json": json.dumps(rows), ".csv": table(rows)}[ending]
    path = tmp_path / f"a{ending}.gz"
    path.write_bytes(packed(text.encode()))
    with pytest.raises(ConfigError, match="unfolds into more than 10 times its size"):
        read_file(path)


def test_a_folder_of_gsm8k_and_its_single_files_packed_or_not(tmp_path: Path) -> None:
    row = json.dumps({"question": "How many?", "answer": "First 1.\n#### 1,200"})
    (tmp_path / "test.jsonl.gz").write_bytes(packed(row.encode()))
    assert [p.answer for p in GSM8K("test", path=str(tmp_path / "test.jsonl.gz")).load()] == [
        "1200"
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("123456789012345678.5", "123456789012345678.5"),
        ("-3.141592653589793238462643383", "-3.141592653589793238462643383"),
        ("1.23456789012345678901e3", "1234.56789012345678901"),
        ("0.10000000000000001", "0.1"),  # as C writes a float of 64 bits
        ("0.50000000000000000000", "0.5"),
        ("70.30", "70.3"),
        ("1.7e4", "17000"),
        ("123456789012345678901", "123456789012345678901"),
    ],
)
def test_numbers_of_json_keep_their_digits(tmp_path: Path, number: str, text: str) -> None:
    row = f'{{"question": "q", "answer": {number}, "rate": 0.25}}'
    (tmp_path / "a.jsonl").write_text(row)
    (tmp_path / "a.json").write_text(f"[{row}]")
    for name in ("a.jsonl", "a.json"):
        (problem,) = Records(path=str(tmp_path / name)).load()
        assert (problem.answer, problem.columns) == (text, {"rate": 0.25})


@pytest.mark.parametrize("exponent", ["999999999", "-999999999", "99999999999999999999"])
def test_a_number_of_json_does_not_take_the_memory_of_its_exponent(
    tmp_path: Path, exponent: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "q", "answer": 1.234567890123456789e{exponent}}}')
    if exponent[0] == "-":
        assert load(path) == [("q", "0")]
    else:
        with pytest.raises(ConfigError, match=r"in row 1 of .* column 'answer' is infinite"):
            load(path)
