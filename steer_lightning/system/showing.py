"""The guard around what only shows something: its failure is told, and does not end the work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from steer_lightning.system.printable import one_line

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
