"""The CSV log of a run's metrics."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import METRICS
from steer_lightning.system.whole_files import write_bytes

log = logging.getLogger(__name__)

OPEN_ROWS = 4
"""Number of last rows to which later metrics of the same steps can still be added."""

Row = dict[str, Any]


class RunLog(Logger):
    """Writes `metrics.csv`, one row for each step, and continues if the run's folder is removed.

    Rewards, benchmarks and lens results of a step are logged one after the other, but belong in one
    row. The file is complete after every call: a row that gets further metrics is written again in
    its place.

    Args:
        folder: The folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._path = folder, folder / METRICS
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._names: list[str] = []  # columns of the file
        self._open: list[Row] = []  # the last rows of the file
        self._start = 0  # byte of the file at which the open rows begin

    # Lightning puts checkpoints into save_dir/name/version/checkpoints

    @property
    def save_dir(self) -> str:
        """The folder of the run."""
        return str(self._folder)

    @property
    def name(self) -> str:
        """Empty, since the folder belongs to this run alone."""
        return ""

    @property
    def version(self) -> str:
        """Empty, too."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Does nothing: `config.yaml` has all settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds metrics to the row of their step; without a step, to the last row."""
        if not self._folder.is_dir():
            log.warning(
                "%s was removed during the run: it is created again, without its earlier content",
                one_line(self._folder),
            )
            self._folder.mkdir(parents=True)
        if not self._path.is_file():
            self._begin_anew()
        if step is None:
            step = self._open[-1]["step"] if self._open else 0
        found = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
        row = next((row for row in self._open if row["step"] == step), None)
        if row is None:
            row = {"step": step}
            self._open.append(row)
        row.update(found)
        if set(row) <= set(self._names):
            self._write_open_rows()
        else:
            self._write_with_new_columns(row)

    def _write_open_rows(self) -> None:
        """Overwrites the rows at the end of the file with the open rows."""
        while len(self._open) > OPEN_ROWS:
            self._start += len(self._text([self._open.pop(0)]))
        with self._path.open("r+b") as file:
            file.seek(self._start)
            file.write(self._text(self._open))
            file.truncate()

    def _write_with_new_columns(self, row: Row) -> None:
        """Writes the whole file again, since its first line names all columns."""
        before = self._path.read_bytes()[: self._start] if self._names else b""
        closed = list(csv.DictReader(io.StringIO(before.decode(), newline="")))
        self._names = sorted({*self._names, *row})
        head = self._text([dict(zip(self._names, self._names, strict=True)), *closed])
        self._start = len(head)
        write_bytes(self._path, head + self._text(self._open))

    def _text(self, rows: Sequence[Row]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._names).writerows(rows)
        return text.getvalue().encode()
