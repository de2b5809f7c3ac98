"""The vectors of a run at the steps of its training."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path

from steer_lightning.steering import SiteVectors
from steer_lightning.system.run_files import EVERY_VECTORS, is_run

NAME = re.compile(r"step_(\d+)\.safetensors")


class Checkpoints:
    """The files that `VectorCheckpoint` with `keep_all` has kept, for each run.

    Args:
        files: Results of runs by name.

    Attributes:
        steps: All steps at which vectors of a run were kept, ascending.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = {name: found for name, file in files.items() if (found := _steps(file))}
        self._loaded: dict[Path, SiteVectors] = {}
        self.steps = sorted(set().union(*self._files.values()))

    def at(self, step: int | None, load: Callable[[Path], SiteVectors]) -> dict[str, SiteVectors]:
        """Returns the vectors of runs at a step: the last ones that were kept until then.

        Args:
            step: Step of the training; None, or the last step of all, takes none of the kept files.
            load: Function that loads a file.

        Returns:
            Vectors by name, without those of runs that kept nothing; before its first file, a run
            has the vectors of that file.
        """
        if step is None or not self.steps or step >= self.steps[-1]:
            return {}
        found = {}
        for name, files in self._files.items():
            steps = sorted(files)
            file = files[steps[max(0, bisect_right(steps, step) - 1)]]
            if file not in self._loaded:
                self._loaded[file] = load(file)
            found[name] = self._loaded[file]
        return found


def _steps(file: Path) -> dict[int, Path]:
    """Returns the kept files of the run that a result belongs to, by step."""
    if not is_run(file.parent):
        return {}
    found = {}
    for kept in (file.parent / EVERY_VECTORS).glob("*.safetensors"):
        if match := NAME.fullmatch(kept.name):
            found[int(match[1])] = kept
    return found
