"""SVAMP: 700 training and 300 test problems of one step, in words.

The data set is by Patel et al. (arXiv 2103.07191).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from steer_lightning.data.files import read_file, split_file
from steer_lightning.data.records import Records
from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import one_line
from steer_lightning.types import Problem

HUB_COLUMNS = ("Question", "Answer")
"""Columns of question and answer on the hub, beside `Body`."""

JOINED_COLUMNS = ("question", "answer")
"""Columns of a local file in which body and question are one text."""

WHOLE_NUMBER = re.compile(r"\A(-?[0-9]+)\.0+\Z")
END = re.compile(r"[.!?,;:]\Z")


class SVAMP:
    """SVAMP from the hub (`ChilleD/SVAMP`), or from local files.

    On the hub, a problem is a story (`Body`) and a question about it (`Question`), which are joined
    here. A local file has these columns and `Answer`, as `SVAMP.json` of the authors has; or it has
    `question`, in which both are joined already, and `answer`. An answer such as `3.0` is read as
    `3`. The other columns, such as `Type`, are handed on to rewards.

    Args:
        split: `train` or `test`.
        path: A folder with `train.jsonl` and `test.jsonl`, or one file; null loads from the hub.
        limit: Number of problems to take; null takes all.
        skip: Number of problems to leave out at the start.

    Raises:
        ConfigError: If the file is missing, or has other columns.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        path: str | None = None,
        limit: int | None = None,
        skip: int = 0,
    ) -> None:
        file = None if path is None else split_file(path, split, "SVAMP.path")
        self._records = Records(
            path=file,
            hub_name="ChilleD/SVAMP" if file is None else None,
            split=split,
            limit=limit,
            skip=skip,
        )

    def load(self) -> list[Problem]:
        """Reads all problems of the split."""
        records = self._records
        columns = HUB_COLUMNS if records.path is None else _columns_of(records.path)
        records.question_column, records.answer_column = columns
        problems = records.load()
        if columns == HUB_COLUMNS:
            problems = [_with_body(problem) for problem in problems]
        return [
            replace(problem, answer=WHOLE_NUMBER.sub(r"\1", problem.answer)) for problem in problems
        ]


def _columns_of(path: str) -> tuple[str, str]:
    """Returns the columns of question and answer of a local file.

    Raises:
        ConfigError: If its first row has neither form.
    """
    row: Mapping[str, Any] = read_file(path)[0]
    if {"Body", *HUB_COLUMNS} <= set(row):
        return HUB_COLUMNS
    if set(JOINED_COLUMNS) <= set(row):
        return JOINED_COLUMNS
    raise ConfigError(
        "SVAMP.path",
        path,
        rule="must have the columns Body, Question and Answer, or question and answer",
        why=f"The columns of its first row are {', '.join(map(one_line, row)) or 'none'}",
        fix="For other columns, use steer_lightning.data.Records",
    )


def _with_body(problem: Problem) -> Problem:
    """Puts the body before the question, and ends it like a sentence.

    Raises:
        ConfigError: If there is no body: nobody can answer such a problem.
    """
    columns = dict(problem.columns)
    body = columns.pop("Body", None)
    if not isinstance(body, str) or not body.strip():
        raise ConfigError(
            "source",
            body,
            rule=f"the question {problem.question!r} needs a text in the column Body",
            fix="Fill the column, or remove the row",
        )
    body = body.strip()
    joint = " " if END.search(body) else ". "
    return replace(problem, question=f"{body}{joint}{problem.question.strip()}", columns=columns)
