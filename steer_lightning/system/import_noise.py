"""Messages that libraries print when they are imported, although they call for no action."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = {
    # a kernel for bases in 4 bits on a CPU, which nothing here uses; PEFT imports the library, too
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
"""Beginnings of messages, by the name of their logger."""


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Withholds the messages of `NOISE` in the block, and no other messages of those loggers."""
    filters = {name: _Without(beginning) for name, beginning in NOISE.items()}
    for name, found in filters.items():
        logging.getLogger(name).addFilter(found)
    try:
        yield
    finally:
        for name, found in filters.items():
            logging.getLogger(name).removeFilter(found)


class _Without(logging.Filter):
    """Drops messages with a certain beginning."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether the message is shown."""
        return not record.getMessage().startswith(self._beginning)
