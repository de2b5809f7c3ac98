"""What each experiment of a sweep prints and logs, in a file of its own."""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from steer_lightning.cli.sweep_fit import ExperimentCLI
from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import indented

OUTPUT = "output.txt"
"""File in an experiment's folder that receives what `fit` would print."""

FILES_EACH = 2
"""Files that an experiment keeps open: its output, and the lock of its folder."""

FILES_BESIDE = 200
"""Other files that a sweep may have open, such as fonts: matplotlib opens two of them for each of
up to 64 threads."""


def check_open_files(running: int, total: int, limit: int) -> None:
    """Refuses more experiments than files can be open for.

    Args:
        running: Number of experiments that have not ended, as far as they are known.
        total: Number of all experiments.
        limit: Largest number of open files.

    Raises:
        ConfigError: If there are more.
    """
    most = max(0, limit - FILES_BESIDE) // FILES_EACH
    if running > most:
        raise ConfigError(
            "sweep",
            f"{total} experiments",
            rule=f"can train only {most} at a time here",
            why=f"Each keeps {FILES_EACH} files open, and this system allows a process {limit}",
            fix=f"Raise the limit with ulimit -n {FILES_EACH * total + FILES_BESIDE}, or divide "
            "the experiments among several sweeps",
        )


def open_output(cli: ExperimentCLI) -> TextIO:
    """Opens the file that receives what an experiment prints.

    Processes other than the first have no such file; what is printed there, such as by a user's
    reward, goes where it would go with `fit`.
    """
    if cli.run.folder is None:
        return os.fdopen(os.dup(sys.stdout.fileno()), "a", encoding="utf-8", buffering=1)
    path = cli.run.folder / OUTPUT
    cli.run.expect(path)
    return path.open("a", encoding="utf-8", buffering=1)


class MessagesByExperiment(logging.Handler):
    """Handles messages of this package by the experiment whose thread logs them.

    They are written to the experiment's output, and go on to the terminal with its name in front.
    Messages of other threads, such as those of joint calls, go on as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def of(self, name: str, output: TextIO | None, fit: Callable[[], Any]) -> Callable[[], Any]:
        """Returns a function whose messages are those of an experiment.

        Args:
            name: Name of the experiment.
            output: File that receives its messages, too; None for the terminal alone.
            fit: Function that trains the experiment.
        """

        def run() -> Any:
            self._here.experiment = name, output
            return fit()

        return run

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message, and hands it on."""
        name, output = getattr(self._here, "experiment", (None, None))
        if output is not None:
            output.write(indented(self.format(record)) + "\n")
        if name is not None:
            record = copy.copy(record)  # experiments with the same prompts log the same record
            record.msg, record.args = f"[{name}] {record.getMessage()}", None
        logging.getLogger().handle(record)


@contextmanager
def messages_by_experiment() -> Iterator[MessagesByExperiment]:
    """Lets messages of this package pass through a handler while the block runs."""
    logger, handler = logging.getLogger("steer_lightning"), MessagesByExperiment()
    before, logger.propagate = logger.propagate, False  # the handler hands them on itself
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
