"""The problems in rows with named columns, from a local file or a data set of the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from steer_lightning.data.columns import (
    MISSING,
    OddValueError,
    as_text,
    is_printed,
    names_of,
    question_in,
    value_at,
)
from steer_lightning.data.files import Row, read_file, with_short_floats
from steer_lightning.errors import ConfigError
from steer_lightning.system.hub_answers import hub_or_cache
from steer_lightning.system.printable import one_line, quoted, valid_unicode
from steer_lightning.types import Problem

log = logging.getLogger(__name__)

SHOWN = 80
"""Number of characters of a value that a message shows."""


def read_hub(
    name: str, *, config: str | None, split: str, revision: str | None = None
) -> list[Row]:
    """Reads all rows of a data set of the hub.

    Raises:
        ConfigError: If the hub or the data set can't be reached; the error names the option for a
            local file.
    """
    fix = "Check the name and the network, or set `path` of the source to a local file"
    try:
        with hub_or_cache("source.hub_name", name, fix):
            import datasets

            rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except ConfigError:
        raise
    except (
        OSError,
        ValueError,
    ) as error:  # `datasets` raises these without network, data set, config or split
        raise ConfigError(
            "source.hub_name",
            name,
            rule=f"{one_line(name)} can't be loaded from the hub",
            why=" ".join(str(error).split()).rstrip("."),
            fix=fix,
        ) from error
    return with_short_floats([dict(row) for row in rows], rows.features.arrow_schema)


def to_problems(
    rows: Sequence[Row], question: str, answer: str, origin: str, first: int = 1
) -> list[Problem]:
    """Makes problems from rows.

    Args:
        rows: Rows with at least both columns.
        question: Column of the question, or a path into a column; see `value_at`.
        answer: Column of the gold answer, or a path into a column.
        origin: Name of the file or data set, for messages.
        first: Number of the first row, for messages.

    Returns:
        Problems with the other columns attached. Warnings count rows that lack a question or an
        answer, and texts in which half of a surrogate pair became a question mark.

    Raises:
        ConfigError: If there are no rows, a column is missing, or a value is neither text nor a
            number; the error names the row.
    """
    if not rows:
        raise ConfigError("source", origin, rule="holds no rows")
    for key, column in (("question_column", question), ("answer_column", answer)):
        if all(value_at(row, column) is MISSING for row in rows):
            raise _no_column(key, column, rows[0], origin)
    problems, numbers, dropped, num_mended = [], [], [], 0
    for number, row in enumerate(rows, first):
        try:
            asked = question_in(value_at(row, column := question), column)
            gold = as_text(value_at(row, column := answer), column)
        except OddValueError as error:
            key = "question_column" if column is question else "answer_column"
            where = f"row {number} of {one_line(origin)}"
            rule = f"in {where} column {one_line(column)!r} {error.rule}"
            raise ConfigError(f"source.{key}", column, rule=rule, fix=error.fix) from error
        if asked is None or gold is None:
            dropped.append(number)
            continue
        whole = Problem(
            question=valid_unicode(asked),
            answer=valid_unicode(gold),
            columns={key: value for key, value in row.items() if key not in (question, answer)},
        )
        num_mended += (whole.question, whole.answer) != (asked, gold)
        problems.append(whole)
        numbers.append(number)
    if not problems:
        raise ConfigError("source", origin, rule="no row has both a question and an answer")
    if dropped:
        log.warning(
            "%s: dropped %d of %d rows without question or answer, the first being row %d",
            *(one_line(origin), len(dropped), len(rows), dropped[0]),
        )
    if num_mended:
        log.warning(
            "%s: %d of %d problems contain half of a surrogate pair, read as a question mark",
            *(one_line(origin), num_mended, len(rows)),
        )
    _tell_of_printed(problems, numbers, origin)
    return problems


def _tell_of_printed(problems: Sequence[Problem], numbers: Sequence[int], origin: str) -> None:
    """Warns of texts that are how a program writes missing or nested values; see `is_printed`."""
    found = [
        (number, text)
        for number, problem in zip(numbers, problems, strict=True)
        for text in (problem.question, problem.answer)
        if is_printed(text)
    ]
    if found:
        log.warning(
            "%s: %d questions or answers look like a missing or nested value that a program wrote "
            "as text, such as %s in row %d. They are used unchanged, and no other text equals "
            "them. Unless this is intended, leave the field empty, or write the value alone",
            *(one_line(origin), len(found), quoted(found[0][1][:SHOWN]), found[0][0]),
        )


def _no_column(key: str, column: str, row: Row, origin: str) -> ConfigError:
    names = ", ".join(map(one_line, names_of(row)))
    return ConfigError(
        f"source.{key}",
        column,
        rule=f"{one_line(origin)} has no column {one_line(column)!r}",
        why=f"Its columns are {names}" if names else "Its rows have no columns",
        fix="Set question_column and answer_column to two of these",
    )


class Records:
    """Loads problems from any local file, or data set of the hub, with named columns.

    Args:
        path: Local .jsonl, .ndjson, .json, .csv (each also .gz) or .parquet file; null if
            `hub_name` is set.
        hub_name: Data set of the hub, such as `openai/gsm8k`.
        hub_config: Configuration of the data set.
        split: Split of the data set.
        revision: Revision of the data set.
        question_column: Column of the question, or a path such as `extra_info.question`. It
            contains text, or a conversation with one message by the user.
        answer_column: Column of the gold answer, or a path such as `reward_model.ground_truth`. It
            contains text, a number, or a list of one of them.
        limit: Number of rows to take; null takes all.
        skip: Number of rows to leave out at the start, such as those that another source takes with
            `limit`.

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
        skip: int = 0,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError("limit", limit, rule="must be at least 1, or null for all rows")
        if skip < 0:
            raise ConfigError("skip", skip, rule="must be 0 or more")
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
        self.limit, self.skip = limit, skip

    def load(self) -> list[Problem]:
        """Reads all rows."""
        if self.path is not None:
            rows = read_file(self.path)
        else:
            assert self.hub_name is not None
            rows = read_hub(
                self.hub_name, config=self.hub_config, split=self.split, revision=self.revision
            )
        origin = self.path or self.hub_name or ""
        if 0 < len(rows) <= self.skip:
            rule = f"{one_line(origin)} has only {len(rows)} rows"
            raise ConfigError("skip", self.skip, rule=rule, fix="Leave out fewer of them")
        rows = rows[self.skip :][: self.limit]
        return to_problems(
            rows, self.question_column, self.answer_column, origin, first=self.skip + 1
        )
