"""Guards of what only shows: its failure does not end the work, and bars share no line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

from steer_lightning.system.printable import indented, one_line

log = logging.getLogger(__name__)


@contextmanager
def told_not_raised(what: str) -> Iterator[None]:
    """Turns any error in the block into a warning: a picture is worth less than a training.

    Memory that runs out is one of these errors: it is free again behind the block. No collective
    call may be in the block, since a process that fails alone would leave the others waiting.

    Args:
        what: What the block shows, as the beginning of a sentence.
    """
    try:
        yield
    except Exception as error:  # whatever it is, what is shown is not worth the run
        log.warning("%s is left out: %s", one_line(what), reason(error))


def reason(error: Exception) -> str:
    """Returns the kind and the text of an error in one line."""
    return one_line(f"{type(error).__name__}: {error}".rstrip(": "))


class _AboveBars(logging.Handler):
    """Writes log records to the console on lines of their own, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        tqdm.write(indented(self.format(record)), file=sys.stderr)


@contextmanager
def lines_above_bars() -> Iterator[None]:
    """Keeps warnings within the block off the line of a progress bar.

    Warnings of Python, and log records for which no handler is set up, are written above the bars
    that are there. Without a bar nothing changes.
    """
    resort, show = logging.lastResort, warnings.showwarning

    def show_above(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        told = warnings.formatwarning(message, category, filename, lineno, line)
        tqdm.write(indented(told.rstrip("\n")), file=file or sys.stderr)

    logging.lastResort, warnings.showwarning = _AboveBars(logging.WARNING), show_above
    try:
        yield
    finally:
        logging.lastResort, warnings.showwarning = resort, show
