"""The folder of an evaluation, which keeps completions batch by batch, so that it can resume."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steer_lightning.errors import ConfigError
from steer_lightning.rewards import followed
from steer_lightning.system.plain_settings import check_same
from steer_lightning.system.printable import valid_unicode
from steer_lightning.system.run_files import (
    BUDGET,
    COMPARISON,
    COMPLETIONS,
    DOSE,
    EVALUATION_PARTS,
    EVALUATION_SETTINGS,
    PASS_CURVE,
    RESULTS,
    SIDE_EFFECTS,
)
from steer_lightning.system.whole_files import written_aside
from steer_lightning.types import Completion

Row = dict[str, Any]

OUTCOME = "outcome"
FOLLOWED = "followed"
FORWARD, BACKWARD, SECONDS = "forward_tokens", "backward_tokens", "seconds"
PLAIN_SCORE, SCORE = "plain_score", "score"
COSTS = (FORWARD, BACKWARD, SECONDS, PLAIN_SCORE, SCORE)
COLUMNS = "columns"
LATER = (OUTCOME, FOLLOWED, *COSTS, COLUMNS)
"""Columns that an evaluation of an earlier version lacks."""

SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("arm", pa.string()),
        ("problem", pa.int64()),
        ("sample", pa.int64()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("completion", pa.string()),
        ("num_tokens", pa.int64()),
        ("finished", pa.bool_()),
        ("verdict", pa.float64()),
        (OUTCOME, pa.string()),
        (FOLLOWED, pa.float64()),
        (FORWARD, pa.int64()),
        (BACKWARD, pa.int64()),
        (SECONDS, pa.float64()),
        (PLAIN_SCORE, pa.float64()),
        (SCORE, pa.float64()),
        (COLUMNS, pa.string()),
    ]
)
"""Columns of the completions, one row each.

`verdict` is null if a completion can't be judged, and `followed`, the share of the problem's
verifiable instructions that it follows, if there are none. The columns `COSTS` say what a
completion has cost, in an evaluation that refines answers, and are null in others; the scores are
null unless the completion has been refined. `columns` are the further columns of the problem, which
verifiers may read, as JSON.
"""


def row_of(
    place: Row,
    completion: Completion,
    verdict: float | None,
    outcome: str,
    cost: Mapping[str, float] = MappingProxyType({}),
) -> Row:
    """Makes a row of `SCHEMA`.

    Args:
        place: Values of `benchmark`, `arm`, `problem` and `sample`.
        completion: Completion of the problem.
        verdict: Verdict on the completion.
        outcome: Reason for the verdict, in the verifier's own words.
        cost: Values of the columns `COSTS` that are known.
    """
    return {
        **dict.fromkeys(COSTS),
        **place,
        "question": completion.question,
        "answer": completion.answer,
        "completion": completion.text,
        "num_tokens": completion.num_tokens,
        "finished": completion.finished,
        "verdict": verdict,
        OUTCOME: outcome,
        FOLLOWED: followed(completion.text, completion.columns),
        COLUMNS: _as_json(completion.columns),
        **cost,
    }


def completion_of(row: Row) -> Completion:
    """Restores the completion of a row for a verifier; rows of earlier versions have no columns."""
    return Completion(
        text=row["completion"],
        question=row["question"],
        answer=row["answer"],
        num_tokens=row["num_tokens"],
        finished=row["finished"],
        columns=json.loads(row[COLUMNS] or "{}"),
    )


def _as_json(columns: Mapping[str, object]) -> str:
    """Returns columns as JSON, without the values that JSON does not know."""
    left_out = unstorable(columns)
    return json.dumps({name: x for name, x in columns.items() if name not in left_out})


def unstorable(columns: Mapping[str, object]) -> set[str]:
    """Returns the names of the columns whose values JSON does not know."""
    found = set()
    for name, value in columns.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):  # of another type, or with itself inside
            found.add(name)
    return found


FORMAT = "format"
"""Key of the version of the folder's layout and of what its settings tell; see `LAYOUT`."""

LAYOUT = 2
"""Version 1, which had no key for it, did not tell apart all that completions depend on."""

ABSENT = "not part of this evaluation"
"""Value of a setting that only the other evaluation has."""

VERIFIER = "verifier"
"""Key of the one setting that `--rescore` changes."""

INTERRUPTED = {"name": "an interrupted --rescore"}
"""Verifier of completions that are being verified again."""


class Store:
    """Reads and writes the folder of an evaluation.

    `settings.json` says what is evaluated, `parts/` contains the finished batches,
    `completions.parquet` contains all completions at the end, and `results.json` the figures.

    Args:
        folder: Folder of the evaluation, created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.completions = folder / COMPLETIONS
        self.results = folder / RESULTS
        self.side_effects = folder / SIDE_EFFECTS
        self._parts = folder / EVALUATION_PARTS
        self._settings = folder / EVALUATION_SETTINGS

    def open(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Starts an evaluation, or continues one with the same settings.

        Args:
            settings: Everything on which completions and verdicts depend, as JSON values.
            overwrite: Whether to delete the files that another evaluation has left in the folder.

        Raises:
            ConfigError: If the folder has other contents, or an evaluation with other settings.
        """
        if self._settings.exists():
            if not overwrite:
                self._check_same(settings)
                return
            self._clear()  # files of the user in the folder stay
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(
                "output",
                str(self.folder),
                rule="already exists and holds no evaluation",
                fix="Name another folder",
            )
        self._parts.mkdir(parents=True, exist_ok=True)
        self._write_settings({FORMAT: LAYOUT, **settings})

    def _clear(self) -> None:
        """Deletes the files of an evaluation, with its pictures, which show other numbers."""
        shutil.rmtree(self._parts, ignore_errors=True)
        for path in (self.completions, self.results, self.side_effects, self._settings):
            path.unlink(missing_ok=True)
        for name in (COMPARISON, PASS_CURVE, DOSE, BUDGET):
            (self.folder / name).unlink(missing_ok=True)

    def _check_same(self, settings: Mapping[str, Any]) -> None:
        saved, now = _by_dotted_key(self._read_settings()), _by_dotted_key(settings)
        if saved.pop(FORMAT, None) != LAYOUT:
            raise ConfigError(
                "output",
                str(self.folder),
                rule="holds an evaluation of another version of steer-lightning",
                why="Its settings do not tell all that completions depend on",
                fix="Name another output, or set --overwrite; of a finished evaluation, --rescore "
                "verifies the completions again",
            )
        anew = "set --rescore to verify its completions again"
        for of_verifier, remedy in ((False, "set --overwrite"), (True, anew)):
            keys = [key for key in saved | now if key.startswith(VERIFIER) == of_verifier]
            check_same(
                saved,
                {key: now.get(key, ABSENT) for key in keys},
                told=f"the evaluation in {self.folder} was made with",
                why="Completions with other settings are not comparable with its own",
                fix=f"Name another output, or {remedy}",
            )

    def _verified_by(self, verifier: Mapping[str, Any]) -> None:
        if self._settings.exists():
            self._write_settings({**self._read_settings(), VERIFIER: verifier})

    def _read_settings(self) -> dict[str, Any]:
        try:
            settings: dict[str, Any] = json.loads(self._settings.read_text())
        except ValueError as error:
            raise _damaged(self._settings, error) from error
        return settings

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        with written_aside(self._settings) as aside:
            aside.write_text(json.dumps(settings, indent=2) + "\n")

    def part(self, arm: str, benchmark: str, batch: int) -> Path:
        """Returns the path of a batch's file, which does not depend on the order of the arms."""
        # an arm's name may have any characters, and any length
        named = hashlib.sha256(valid_unicode(arm).encode()).hexdigest()[:16]
        return self._parts / f"{named}.{benchmark}.{batch:06d}.parquet"

    def write_part(self, path: Path, rows: Sequence[Row]) -> None:
        """Stores the rows of a batch, whole or not at all."""
        write_rows(path, rows)

    def read(self, paths: Iterable[Path]) -> list[Row]:
        """Reads the rows of several batches.

        Raises:
            ConfigError: If a file is damaged, or has rows of another arm or benchmark.
        """
        rows: list[Row] = []
        for path in paths:
            found = read_rows(path)
            for arm, benchmark in {(row["arm"], row["benchmark"]) for row in found}:
                if self.part(arm, benchmark, 0).name.split(".")[:2] != path.name.split(".")[:2]:
                    other = ValueError(f"It holds completions of {benchmark} by {arm}")
                    raise _damaged(path, other)
            rows += found
        return rows

    def read_results(self) -> dict[str, Any]:
        """Reads the figures of a finished evaluation; empty if there are none.

        Raises:
            ConfigError: If the file is damaged.
        """
        if not self.results.exists():
            return {}
        try:
            found: dict[str, Any] = json.loads(self.results.read_text())
        except ValueError as error:
            raise _damaged(self.results, error) from error
        return found

    def finish(
        self,
        rows: Sequence[Row],
        results: Mapping[str, Any],
        verifier: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the completions and the figures, and deletes the files of single batches.

        Args:
            rows: Rows of all arms.
            results: Content of `results.json`.
            verifier: Verifier with which all completions have been verified again; None if it is
                the one in the settings. If writing is interrupted, no verifier fits the settings.
        """
        if verifier is not None:
            self._verified_by(INTERRUPTED)
        write_rows(self.completions, rows)
        with written_aside(self.results) as aside:
            aside.write_text(json.dumps(results, indent=2) + "\n")
        shutil.rmtree(self._parts, ignore_errors=True)
        if verifier is not None:
            self._verified_by(verifier)


def _by_dotted_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Splits the settings by one level, so that an error names the inner setting that differs."""
    found = {}
    for key, value in settings.items():
        inner = value if isinstance(value, dict) else {}
        found.update({f"{key}.{name}": item for name, item in inner.items()} or {key: value})
    return found


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as a Parquet file, whole or not at all."""
    clean = [{**row, **{key: valid_unicode(row[key]) for key in _TEXTS}} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        pq.write_table(pa.Table.from_pylist(clean, schema=SCHEMA), aside)


_TEXTS = ("question", "answer", "completion")


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a file that `write_rows` has written.

    Raises:
        ConfigError: If the file is missing, damaged or of another kind.
    """
    if not path.exists():
        raise ConfigError(
            "output",
            str(path),
            rule="there is no such file",
            fix="Evaluate first, without --rescore, or name another output",
        )
    try:
        table = pq.read_table(path)
        for name in LATER:
            if name not in table.schema.names:
                kind = SCHEMA.field(name).type
                table = table.append_column(name, pa.nulls(len(table), kind))
        rows: list[Row] = table.to_pylist()
    except (ValueError, OSError) as error:  # Arrow's errors, and text that is not UTF-8
        raise _damaged(path, error) from error
    if not table.schema.equals(SCHEMA):
        missing = sorted(set(SCHEMA.names) - set(table.schema.names))
        raise ConfigError(
            "output",
            str(path),
            rule=f"lacks {', '.join(missing)}" if missing else "has columns of other types",
            why="It does not contain the completions of an evaluation",
        )
    return rows


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        "output",
        str(path),
        rule="is damaged",
        why=" ".join(str(error).split()),
        fix="Delete it, or set --overwrite",
    )
