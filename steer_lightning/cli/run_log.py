"""The CSV log of a run's metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger

from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)


class RunLog(CSVLogger):
    """Writes `metrics.csv`, and goes on if the run's folder is removed: training is worth more.

    Args:
        folder: The folder of the run; the file is written after every line.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="", flush_logs_every_n_steps=1)
        self._folder = folder

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]  # Lightning's own is wrapped
        """Adds a line."""
        if not self._folder.is_dir():
            log.warning(
                "%s was removed during the run: it is made anew, without its past",
                one_line(self._folder),
            )
            self._folder.mkdir(parents=True)
        super().log_metrics(dict(metrics), step)
