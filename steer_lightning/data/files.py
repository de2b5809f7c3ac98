"""Reads rows with named columns from JSON lines, JSON, CSV or Parquet files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from steer_lightning.errors import ConfigError

Row = Mapping[str, Any]

MAX_LINE = 2**24
"""Largest number of characters in a line; parsing a longer one would take the run's memory."""

MAX_UNFOLDED, MAX_RATIO = 2**30, 1000
"""Number of characters, and multiple of a file's size, above which a file is taken for a bomb."""

FLOAT_DIGITS = 17
"""Largest number of significant digits of a 64-bit float; longer numbers become decimals."""


def read_file(path: str | Path) -> list[Row]:
    """Reads all rows of a file.

    The suffix of the file's name, in upper or lower case, determines its format: `.jsonl` or
    `.ndjson` (one object per line), `.json` (a list of objects), `.csv` (names in the first line)
    or `.parquet`. The first four may be followed by `.gz`, and are then unpacked. Text is UTF-8,
    UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ConfigError: If the file is missing, of another kind, empty or damaged; the error names the
            line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError("source.path", str(path), rule="there is no such file")
    kind = _kind(path)
    if kind not in READERS:
        endings = ", ".join(sorted(set(READERS) - {".parquet"}))
        raise _refused(path, f"must end in {endings}, each optionally with .gz, or in .parquet")
    rows = READERS[kind](path)
    if not rows:
        raise _refused(path, "holds no rows")
    return rows


def split_file(path: str, split: str, key: str) -> str:
    """Returns the file of a split: `path` itself, or `SPLIT.jsonl` in it if it is a folder.

    Args:
        path: A file, or a folder with a file for each split.
        split: Name of the split, such as `train`.
        key: Key of the path in the configuration, for the error.

    Raises:
        ConfigError: If there is no such file.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / f"{split}.jsonl"
    if not file.is_file():
        raise ConfigError(key, path, rule=f"there is no file {file}")
    return str(file)


def _kind(path: Path) -> str:
    """Returns the suffix in lower case, or the one before `.gz`, except for Parquet.

    Parquet compresses its data itself.
    """
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings[-1:] == [".gz"] and endings[-2:-1] != [".parquet"]
    return "".join(endings[-2:-1] if packed else endings[-1:])


def _refused(path: Path, rule: str, why: str = "") -> ConfigError:
    return ConfigError("source.path", str(path), rule=rule, why=why)


# ---- text


@contextmanager
def _text(path: Path, form: str) -> Iterator[IO[str]]:
    """Opens a file as text, unpacked, with unchanged line ends.

    Args:
        path: File to open.
        form: Format that it should have, for errors.
    """
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path, "rb") if packed else path.open("rb") as raw:
        try:
            encoding = json.detect_encoding(raw.read(4))  # from a byte order mark or zero bytes
            raw.seek(0)
            with io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
                yield text
        except UnicodeDecodeError as error:
            rule = f"is not {form}: some of its bytes are not {encoding} text ({error})"
            raise _refused(path, rule, "Text must be in UTF-8, UTF-16 or UTF-32") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _refused(path, f"is damaged, or not compressed by gzip ({error})") from error


def _limit(path: Path) -> int:
    """Returns the number of characters that a file may unfold into."""
    return max(MAX_UNFOLDED, MAX_RATIO * path.stat().st_size)


def _bomb(path: Path) -> ConfigError:
    return _refused(
        path,
        f"unfolds into more than {MAX_RATIO:,} times its size",
        "It repeats the same values to exhaust memory",
    )


def _lines(path: Path, form: str) -> Iterator[tuple[int, str]]:
    """Yields the lines of a text file with their numbers from 1."""
    left = _limit(path)
    with _text(path, form) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
            if len(line) > MAX_LINE:
                raise _refused(
                    path,
                    f"line {number} has more than {MAX_LINE:,} characters",
                    "No problem is that long; the file may lack its line breaks",
                )
            left -= len(line)
            if left < 0:
                raise _bomb(path)
            yield number, line


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in _lines(path, "JSON lines"):
        if not line.strip():
            continue
        rows.append(_object(path, number, _parsed(path, line, f"line {number} ")))
    return rows


def _read_json(path: Path) -> list[Row]:
    limit = _limit(path)
    with _text(path, "JSON") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise _bomb(path)
    rows = _parsed(path, text)
    if not isinstance(rows, list):
        raise _refused(path, "must be a JSON list of objects")
    return [_object(path, number, row) for number, row in enumerate(rows, 1)]


def _parsed(path: Path, text: str, place: str = "") -> Any:
    """Returns the value of a JSON text; `place` is the text's place in the file, for errors."""
    try:
        return json.loads(text, parse_float=_number, object_pairs_hook=_named_once)
    except _TwiceError as error:
        why = "Only one of the values could be used"
        raise _refused(path, f"{place}has the name {error} twice in an object", why) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        raise _refused(path, f"{place}is not JSON ({error})") from error


class _TwiceError(ValueError):
    """The error for a name that occurs twice in a JSON object."""


def _named_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _TwiceError(repr(name))
    return found


def _number(text: str) -> float | Decimal:
    """Returns a number of JSON as a float, or as a decimal if a float would lose its digits."""
    value = float(text)
    digits = re.split("[eE]", text)[0].replace(".", "").strip("-0")
    # written in full, a decimal beyond the range of floats would take the memory of its exponent
    exact = len(digits) <= FLOAT_DIGITS or not value or math.isinf(value)
    return value if exact else Decimal(text)


def _object(path: Path, number: int, row: object) -> Row:
    if not isinstance(row, dict):
        raise _refused(path, f"row {number} must be a JSON object with named columns")
    return row


def _read_csv(path: Path) -> list[Row]:
    reader = csv.reader((line for _, line in _lines(path, "CSV")), strict=True)
    rows: list[Row] = []
    try:
        names = next(reader, [])
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise _refused(path, f"names the columns {', '.join(map(repr, twice))} twice")
        for fields in reader:
            if len(fields) not in (0, len(names)):  # 0: a blank line
                rule = f"row {len(rows) + 1} has {len(fields)} fields for {len(names)} columns"
                raise _refused(path, rule, "Perhaps a comma is outside of quotes")
            if fields:
                rows.append(dict(zip(names, fields, strict=True)))
    except csv.Error as error:
        raise _refused(path, f"row {len(rows) + 1} is not CSV ({error})") from error
    return rows


# ---- Parquet


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = []
    left = _limit(path)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                found = batch.to_pylist()  # a value that a dictionary repeats takes memory only now
                left -= sum(_length(value) for row in found for value in row.values())
                if left < 0:
                    raise _bomb(path)
                rows += with_short_floats(found, batch.schema)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # errors of Arrow, and text that is not UTF-8
        raise _refused(path, f"is not a readable Parquet file ({error})") from error
    return rows


def with_short_floats(rows: list[Row], schema: Any) -> list[Row]:
    """Returns rows with each float of 32 or 16 bits as the shortest number that rounds to it.

    70.3 in 32 bits is 70.30000305175781 in 64 bits, which no answer would equal.

    Args:
        rows: Values by column, as Arrow returns them.
        schema: Arrow's schema of the columns, nested ones included.
    """
    kinds = {field.name: field.type for field in schema if SHORT_FLOAT.search(str(field.type))}
    if not kinds:
        return rows
    return [{**row, **{k: _shortest(row[k], kind) for k, kind in kinds.items()}} for row in rows]


def _shortest(value: Any, kind: Any) -> Any:
    """Returns a value of an Arrow type; see `with_short_floats`."""
    if str(kind).startswith("dictionary"):
        kind = kind.value_type
    inner = [kind.field(k) for k in range(kind.num_fields)]
    if value is not None and str(kind) in SHORT_FLOATS:  # older Arrow gives 16 bits as numpy's
        import numpy

        return float(str(getattr(numpy, SHORT_FLOATS[str(kind)])(value)))
    if isinstance(value, Mapping) and inner:
        return {field.name: _shortest(value[field.name], field.type) for field in inner}
    if isinstance(value, tuple) and len(inner) == len(value):  # key and value of a map
        return tuple(_shortest(x, field.type) for x, field in zip(value, inner, strict=True))
    if isinstance(value, list) and inner:
        return [_shortest(item, inner[0].type) for item in value]
    return value


def _length(value: object) -> int:
    return len(value if isinstance(value, (str, bytes)) else str(value))


SHORT_FLOATS = {"float": "float32", "halffloat": "float16"}
"""Numpy's names for Arrow's floats of less than 64 bits."""

SHORT_FLOAT = re.compile(rf"\b(?:{'|'.join(SHORT_FLOATS)})\b")

READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Readers by the suffix of the file's name."""
