"""The record of a sweep: `sweep.json`, and the page that is made from it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.report import write_sweep
from steer_lightning.results.report.files import Record
from steer_lightning.results.report.sweep_file import (
    ENDED,
    FAILED,
    FORMAT,
    NO_FIGURES,
    STOPPED,
    TRAINING,
    WAITING,
    entry_line,
    read_figures,
    read_sweep,
    sweep_text,
)
from steer_lightning.sweep.experiments import Experiment, differing_keys
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import SWEEP, SWEEP_PAGE, is_run
from steer_lightning.system.showing import told_not_raised
from steer_lightning.system.whole_files import write_bytes

log = logging.getLogger(__name__)

LONGEST_REASON = 500
"""Largest number of characters of a failure's reason; `output.txt` of the run has all of it."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An experiment of the present command."""

    experiment: Experiment
    """Its name and settings."""
    folder: Path | None
    """Folder of its run."""
    ended: bool
    """Whether it has been trained before."""


class SweepRecord:
    """What `sweep.json` says, kept up to date while experiments train.

    Experiments of earlier commands that the present one does not name stay listed, after those of
    the present command.

    Args:
        root: Folder of the sweep.
        options: What the command was asked for: `grid`, `experiments` and `each_layer`.
        listed: Experiments of the command.

    Raises:
        ConfigError: If there is a `sweep.json` that no sweep has written.
    """

    def __init__(self, root: Path, options: Mapping[str, Any], listed: Sequence[Listed]) -> None:
        self.root, self._options = root, dict(options)
        self._entries = {one.experiment.name: self._begun(one) for one in listed}
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()
        self._trained = False
        self._keys: dict[str, str] | None = None
        self._before = (read_sweep(root) or {}).get("experiments", [])
        self._seen = self._signature()

    def _begun(self, listed: Listed) -> Record:
        run = None if listed.folder is None else os.path.relpath(listed.folder, self.root)
        return {
            "name": listed.experiment.name,
            "settings": listed.experiment.settings,
            "run": run,
            "status": ENDED if listed.ended else WAITING,
            "reason": None,
            **(self._figures(run) if listed.ended else NO_FIGURES),
        }

    def _figures(self, run: str | None) -> Record:
        """Returns the figures of a run; none if a file of it is damaged, which is reported."""
        try:
            return dict(NO_FIGURES) if run is None else read_figures(self.root / run)
        except ConfigError as error:  # the training went well, and others still train
            log.warning("%s lacks figures: %s", SWEEP, one_line(error))
            return dict(NO_FIGURES)

    @contextmanager
    def kept(self, tell: Callable[[str], Any] = lambda line: None) -> Iterator[None]:
        """Writes the file before and after the block, and the page after it.

        If the block raises an error before any experiment has left anything, all is as it was.

        Args:
            tell: Function that gets a line about the page, such as `print`.
        """
        path = self.root / SWEEP
        earlier = path.read_bytes() if path.exists() else None
        self._write()
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            self._end(STOPPED, None, tell)
            raise
        except BaseException as error:
            trained = [x for x in self._entries.values() if x["status"] != ENDED]
            if not any(x["run"] and is_run(self.root / x["run"]) for x in trained):
                self._restore(path, earlier)
                raise
            self._end(FAILED, why(error), tell)
            raise
        self._end(STOPPED, None, tell)

    @staticmethod
    def _restore(path: Path, earlier: bytes | None) -> None:
        if earlier is None:
            path.unlink(missing_ok=True)
        else:
            write_bytes(path, earlier)

    def _end(self, status: str, because: str | None, tell: Callable[[str], Any]) -> None:
        """Closes the record: experiments that are under way get a last status."""
        for name, entry in self._entries.items():
            if entry["status"] in (WAITING, TRAINING):
                self._set(name, status=status, reason=because, **self._figures(entry["run"]))
            if entry["run"] is not None and not is_run(self.root / entry["run"]):
                self._set(name, run=None)  # it has left nothing, and its folder is deleted
        with told_not_raised(SWEEP):
            if not (self._write() or self._trained) and (self.root / SWEEP_PAGE).exists():
                return  # nothing has happened
        with told_not_raised("the page of the sweep"):
            tell(f"sweep: {one_line(write_sweep(self.root, overwrite=True))}")

    def watched(self, name: str, train: Callable[[], Any]) -> Callable[[], Any]:
        """Returns a function that trains an experiment and records how that goes.

        Args:
            name: Name of the experiment.
            train: Function that trains it.
        """

        def run() -> Any:
            self._begin(name)
            try:
                result = train()
            except (SystemExit, KeyboardInterrupt):  # it has saved its state, as a signal asked
                self._finish(name, STOPPED, None)
                raise
            except BaseException as error:
                self._finish(name, FAILED, why(error))
                raise
            self._finish(name, ENDED, None)
            return result

        return run

    def _begin(self, name: str) -> None:
        self._trained = True
        self._set(name, status=TRAINING)
        if all(entry["status"] != WAITING for entry in self._entries.values()):
            with told_not_raised(SWEEP):
                self._write()  # once for all, as they begin together

    def _finish(self, name: str, status: str, because: str | None) -> None:
        figures = self._figures(self._entries[name]["run"])
        self._set(name, status=status, reason=because, **figures)
        with told_not_raised(SWEEP):  # the training is worth more than its listing
            self._write()

    def _set(self, name: str, **values: Any) -> None:
        with self._lock:
            self._entries[name] |= values
            self._lines.pop(name, None)

    def _write(self) -> bool:
        """Writes the file if it has changed; tells whether it has."""
        with self._lock:
            if self._signature() != self._seen:  # another sweep writes into the same folder
                self._before = (read_sweep(self.root) or {}).get("experiments", [])
                self._keys = None
            others = [x for x in self._before if x["name"] not in self._entries]
            every = [*self._entries.values(), *others]
            if self._keys is None:  # of many experiments, this takes longer than all else
                self._keys = differing_keys([entry["settings"] for entry in every])
            head = {
                **{"format": FORMAT, "version": version("steer-lightning")},
                "options": self._options,
                "keys": self._keys,
            }
            for entry in every:
                self._lines.setdefault(entry["name"], entry_line(entry))
            data = sweep_text(head, [self._lines[x["name"]] for x in every]).encode()
            path = self.root / SWEEP
            changed = not path.exists() or path.read_bytes() != data
            if changed:
                write_bytes(path, data)
            self._seen = self._signature()
            return changed

    def _signature(self) -> tuple[int, int] | None:
        """Returns what changes with each writing of the file; None if there is none."""
        try:
            found = (self.root / SWEEP).stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino


def why(error: BaseException) -> str:
    """Returns the kind and the text of an error on one line of at most 500 characters."""
    text = one_line(f"{type(error).__name__}: {error}".rstrip(": "))
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."
