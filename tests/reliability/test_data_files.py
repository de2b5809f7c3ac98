"""Data files run nothing and take no memory, whatever is in them."""

from __future__ import annotations

import pickle
import random
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steer_lightning import ConfigError
from steer_lightning.data.files import MAX_LINE, read_file
from steer_lightning.data.records import to_problems
from tests.reliability.hostile import Payload


def test_a_line_of_100_megabytes_is_named_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        file.write('{"question": "q", "answer": "1"}\n{"question": "')
        for _ in range(100):
            file.write("x" * 10**6)
        file.write('", "answer": "1"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=f"line 2 has more than {MAX_LINE:,} characters"):
        read_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # kilobytes
    path.write_text('{"question": ' + "[" * 100_000 + "\n")
    with pytest.raises(ConfigError, match="line 1 is not JSON"):
        read_file(path)


TABLE = pa.table({"question": [f"q{k}" for k in range(30)], "answer": ["1"] * 30})


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_damaged_parquet_is_read_or_refused_in_words(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "any.parquet"
    pq.write_table(TABLE, path, compression=compression)
    whole, chance = path.read_bytes(), random.Random(0)
    refused = 0
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged[: chance.choice([None, None, None, position])])
        try:
            to_problems(read_file(path), "question", "answer", "any")
        except ConfigError:
            refused += 1
    assert refused > len(whole) / 12


def test_parquet_runs_nothing_and_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, path = tmp_path / "owned", tmp_path / "any.parquet"
    kind = {"name": "arrow.py_extension_type", "metadata": pickle.dumps(Payload(mark))}
    metadata = {f"ARROW:extension:{key}": value for key, value in kind.items()}
    fields = [pa.field("question", pa.string()), pa.field("answer", pa.string(), metadata=metadata)]
    pq.write_table(TABLE.cast(pa.schema(fields)), path)
    read_file(path)
    assert not mark.exists(), "pyarrow once unpickled this"

    monkeypatch.setattr("steer_lightning.data.files.MAX_UNFOLDED", 10**7)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 10_000])
    table = pa.table({"question": texts, "answer": texts})  # two gigabytes
    for kept in (True, False):  # as dictionaries, and as texts
        pq.write_table(table, path, compression="zstd", store_schema=kept)
        assert path.stat().st_size < 10**4
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ConfigError, match="unfolds into more than 1,000 times its size"):
            read_file(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes

    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"question": bad}), path)
    with pytest.raises(ConfigError, match=r"is not a readable Parquet file.*utf-8"):
        read_file(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_with_a_huge_number_or_half_a_character(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"any.{suffix}"

    def write(row: str) -> None:
        path.write_text(row if suffix == "jsonl" else f"[{row}]")

    write('{"question": "q", "answer": ' + "9" * 5000 + "}")
    with pytest.raises(ConfigError, match=r"is not JSON \(Exceeds the limit"):
        read_file(path)
    write('{"question": "q\\ud83d", "answer": "\\ude00"}')
    (problem,) = to_problems(read_file(path), "question", "answer", "any")
    assert (problem.question, problem.answer) == ("q?", "?")
