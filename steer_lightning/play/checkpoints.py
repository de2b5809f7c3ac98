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
        results: Vectors of these results by name.

    Attributes:
        steps: All steps of which a run has vectors, ascending, that of its result among them.
    """

    def __init__(self, files: Mapping[str, Path], results: Mapping[str, SiteVectors]) -> None:
        self._files = {name: found for name, file in files.items() if (found := _steps(file))}
        self._ends = {
            name: int(results[name].metadata.get("step") or max(found))
            for name, found in self._files.items()
        }
        self._loaded: dict[Path, SiteVectors] = {}
        self.steps = sorted({*self._ends.values()}.union(*self._files.values()))

    def at(self, step: int | None, load: Callable[[Path], SiteVectors]) -> dict[str, SiteVectors]:
        """Returns the vectors of runs at a step: the last ones that were kept until then.

        Args:
            step: Step of the training; None takes the results.
            load: Function that loads a file.

        Returns:
            Vectors by name, without those of runs that kept nothing or had ended by then; before
            its first file, a run has the vectors of that file.
        """
        found: dict[str, SiteVectors] = {}
        for name, files in self._files.items():
            if step is None or step >= self._ends[name]:
                continue
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
