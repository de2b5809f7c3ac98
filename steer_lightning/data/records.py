"""Rows with named columns, from a local file or the hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.system.hub_answers import check_hub_answers
from steer_lightning.system.printable import valid_unicode
from steer_lightning.types import Problem

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

MAX_LINE = 2**24
"""Characters of a JSONL line; to parse and tokenize a longer one would take the run's memory."""

MAX_UNFOLDED, MAX_RATIO = 2**30, 1000
"""Characters, and times a Parquet file's size, beyond which its rows are taken for a bomb."""


def read_file(path: str | Path) -> list[Row]:
    """Reads all rows of a JSONL, JSON (a list of objects) or Parquet file.

    Raises:
        ConfigError: If the file is missing, of another kind, empty or damaged; it names the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError("data path", str(path), rule="there is no such file")
    if path.suffix == ".parquet":
        rows = _read_parquet(path)
    elif path.suffix == ".jsonl":
        rows = _read_jsonl(path)
    elif path.suffix == ".json":
        rows = _read_json(path)
    else:
        raise ConfigError("data path", str(path), rule="must end in .jsonl, .json or .parquet")
    if not rows:
        raise ConfigError("data path", str(path), rule="holds no rows")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = []
    left = max(MAX_UNFOLDED, MAX_RATIO * path.stat().st_size)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                found = batch.to_pylist()  # what a dictionary repeats takes memory only here
                left -= sum(_length(value) for row in found for value in row.values())
                if left < 0:
                    raise ConfigError(
                        "data path",
                        str(path),
                        rule=f"unfolds into more than {MAX_RATIO:,} times its size",
                        why="It repeats the same values to take the run's memory",
                    )
                rows += found
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # Arrow's own, and text that is not UTF-8
        raise ConfigError(
            "data path", str(path), rule=f"is no readable Parquet file ({error})"
        ) from error
    return rows


def _length(value: object) -> int:
    return len(value if isinstance(value, (str, bytes)) else str(value))


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8") as file:
        number = 0
        try:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), 1):
                if len(line) > MAX_LINE:
                    raise ConfigError(
                        "data path",
                        str(path),
                        rule=f"line {number} has more than {MAX_LINE:,} characters",
                        why="No problem is that long; the line breaks of the file may be missing",
                    )
                if line.strip():
                    rows.append(_object(path, number, json.loads(line)))
        except ConfigError:
            raise
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is one, too
            raise ConfigError(
                "data path", str(path), rule=f"line {number} is not JSON ({error})"
            ) from error
    return rows


def _read_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError("data path", str(path), rule=f"is not JSON ({error})") from error
    if not isinstance(rows, list):
        raise ConfigError("data path", str(path), rule="must be a JSON list of objects")
    return [_object(path, number, row) for number, row in enumerate(rows, 1)]


def _object(path: Path, number: int, row: object) -> Row:
    if not isinstance(row, dict):
        raise ConfigError(
            "data path", str(path), rule=f"row {number} must be a JSON object with named columns"
        )
    return row


def read_hub(
    name: str, *, config: str | None, split: str, revision: str | None = None
) -> list[Row]:
    """Reads all rows of a data set of the hub.

    Raises:
        ConfigError: If the hub or the data set can't be reached; it names the option for a local
            file.
    """
    fix = "Check name and network, or set `path` of the source to a local .jsonl, .json or "
    fix += ".parquet file"
    check_hub_answers("data set", name, fix)
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except (
        OSError,
        ValueError,
    ) as error:  # what datasets raises for: no network, no such data set, config or split
        raise ConfigError(
            "data set",
            name,
            rule="can't be loaded from the hub",
            why=" ".join(str(error).split()).rstrip("."),
            fix=fix,
        ) from error
    return [dict(row) for row in rows]


def to_problems(rows: Sequence[Row], question: str, answer: str, origin: str) -> list[Problem]:
    """Makes problems from rows.

    Args:
        rows: With at least both columns.
        question: Column of the question.
        answer: Column of the gold answer.
        origin: Name of file or data set, for messages.

    Returns:
        Problems with the remaining columns attached; rows without question or answer are dropped
        and counted in a warning. Halves of surrogate pairs become question marks.

    Raises:
        ConfigError: If there are no rows, or a column is missing.
    """
    if not rows:
        raise ConfigError("data", origin, rule="holds no rows")
    for column in (question, answer):
        if column not in rows[0]:
            raise ConfigError(
                "data column",
                column,
                rule=f"{origin} has no such column",
                why=f"Its columns are {', '.join(map(str, rows[0]))}",
                fix="Set question_column and answer_column to two of them",
            )
    problems = [
        Problem(
            question=valid_unicode(str(row[question])),
            answer=valid_unicode(str(row[answer])),
            columns={key: value for key, value in row.items() if key not in (question, answer)},
        )
        for row in rows
        if row.get(question) not in (None, "") and row.get(answer) not in (None, "")
    ]
    if not problems:
        raise ConfigError("data", origin, rule="no row has both a question and an answer")
    if len(problems) < len(rows):
        dropped = len(rows) - len(problems)
        log.warning(
            "%s: dropped %d of %d rows without question or answer", origin, dropped, len(rows)
        )
    return problems


class Records:
    """Problems from any local file or hub data set with named columns.

    Args:
        path: Local .jsonl, .json or .parquet file; or null, with `hub_name`.
        hub_name: Data set of the hub, such as `openai/gsm8k`.
        hub_config: Its configuration.
        split: Its split.
        revision: Its revision.
        question_column: Column of the question.
        answer_column: Column of the gold answer.
        limit: Takes the first so many rows; null takes all.

    Raises:
        ConfigError: If not exactly one of `path` and `hub_name` is set, or the file is missing.
    """

    def __init__(
        self,
        path: str | None = None,
        hub_name: str | None = None,
        hub_config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        question_column: str = "question",
        answer_column: str = "answer",
        limit: int | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError("limit", limit, rule="must be at least 1, or null for all rows")
        if (path is None) == (hub_name is None):
            raise ConfigError(
                "Records.path",
                path,
                rule=f"set either path or hub_name (now {hub_name!r}), not both",
            )
        if path is not None and not Path(path).expanduser().is_file():
            raise ConfigError("Records.path", path, rule="there is no such file")
        self.path, self.hub_name, self.hub_config = path, hub_name, hub_config
        self.split, self.revision = split, revision
        self.question_column, self.answer_column = question_column, answer_column
        self.limit = limit

    def load(self) -> list[Problem]:
        """Reads all rows."""
        if self.path is not None:
            rows = read_file(self.path)
        else:
            assert self.hub_name is not None
            rows = read_hub(
                self.hub_name, config=self.hub_config, split=self.split, revision=self.revision
            )
        rows = rows[: self.limit]
        return to_problems(
            rows, self.question_column, self.answer_column, self.path or self.hub_name or ""
        )
