"""Guards for display code: its failures do not end the work, and bars do not share lines."""

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
    """Turns any error in the block into a warning, since a picture is worth less than a training.

    Running out of memory is one of these errors, since the memory is free again after the block. No
    collective call may be in the block: if one process failed alone, the others would keep waiting.

    Args:
        what: What the block shows, as the beginning of a sentence.
    """
    try:
        yield
    except Exception as error:  # no failure to show something is worth ending the run
        log.warning("%s is skipped: %s", one_line(what), reason(error))


def reason(error: Exception) -> str:
    """Returns the kind and the text of an error on one line."""
    return one_line(f"{type(error).__name__}: {error}".rstrip(": "))


class _AboveBars(logging.Handler):
    """Writes log records to the console on lines of their own, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        tqdm.write(indented(self.format(record)), file=sys.stderr)


@contextmanager
def lines_above_bars() -> Iterator[None]:
    """Keeps warnings within the block off the line of a progress bar.

    Python warnings, and log records without a configured handler, are written above the visible
    bars. Without a bar, nothing changes.
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
