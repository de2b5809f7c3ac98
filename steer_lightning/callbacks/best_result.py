"""The best result of a run: how vectors are judged, and how the best ones are kept.

A run measures its vectors in one of three ways, the first of these that it has:

1. the accuracy on the benchmarks of each `BenchmarkEval` with `every_n_steps`, as the mean over
   benchmarks;
2. `validation/accuracy`, if the run answers the problems of `data.val`;
3. the smoothed reward: every 10 steps, vectors are put aside, and their value is the mean of
   `reward/mean` over the 10 steps that follow. Completions are sampled before a step's update, so
   a mean over earlier steps would praise vectors that have just broken.

Of equal values the earlier one stays, which is nearer to the base.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from steer_lightning.callbacks.benchmark_eval import BenchmarkEval
from steer_lightning.module import SteeringModule
from steer_lightning.steering.result_file import with_metadata
from steer_lightning.system.whole_files import folder_written_aside, write_bytes
from steer_lightning.training.validations import has_validations

NUM_REWARDS = 10
"""Number of steps over which rewards are smoothed, and between two sets of vectors put aside."""

VALIDATION = "validation/accuracy"
"""Metric of validations during a run."""

SMOOTHED = f"reward/mean over the next {NUM_REWARDS} steps"
"""Name of the smoothed reward."""


@dataclass(kw_only=True)
class Kept:
    """The result of one step, with its value."""

    step: int
    """Number of optimizer steps that it has had."""
    metric: str
    """Name of what was measured."""
    value: float = math.nan
    """Value of it; higher is better."""
    files: dict[str, torch.Tensor] = field(default_factory=dict)
    """Content of its files, uint8, by path in the result's folder; empty on other processes than
    the first. The key is "" if the result is a single file."""

    @property
    def facts(self) -> dict[str, Any]:
        """Step, metric and value."""
        return {"step": self.step, "metric": self.metric, "value": self.value}

    def is_better_than(self, other: Kept | None) -> bool:
        """Whether this one replaces another, whose value may be of another metric."""
        if not math.isfinite(self.value):
            return False
        return other is None or other.metric != self.metric or self.value > other.value

    def write(self, path: Path) -> None:
        """Writes the result, whole or not at all, with metric and value in its metadata."""
        told = {"metric": self.metric, "value": f"{self.value:.6g}"}
        contents = {
            name: with_metadata(bytes(data.numpy()), told)
            if (name or path.name).endswith(".safetensors")
            else bytes(data.numpy())
            for name, data in self.files.items()
        }
        if set(contents) == {""}:
            write_bytes(path, contents[""])
            return
        with folder_written_aside(path) as aside:
            for name, content in contents.items():
                (aside / name).write_bytes(content)


def kept_now(trainer: L.Trainer, module: SteeringModule, metric: str, folder: Path) -> Kept:
    """Keeps the current result in memory; its value is not known yet.

    Args:
        trainer: Trainer of the run.
        module: Module of the run.
        metric: Name of what is measured.
        folder: Folder in which the result is written for a moment.
    """
    kept = Kept(step=trainer.global_step, metric=metric)
    if not trainer.is_global_zero:
        return kept
    folder.mkdir(parents=True, exist_ok=True)  # nothing else may have been written yet
    with tempfile.TemporaryDirectory(prefix=f".{kept.step}.", dir=folder) as place:
        path = Path(place) / module.policy.steering.file_name
        module.policy.steering.save(
            path,
            base_model=module.policy.base,
            revision=module.policy.commit,
            step=trainer.global_step,
        )
        files = [path] if path.is_file() else sorted(x for x in path.rglob("*") if x.is_file())
        for file in files:
            name = "" if file == path else file.relative_to(path).as_posix()
            kept.files[name] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    return kept


def state_of(kept: Kept | None) -> dict[str, Any] | None:
    """Returns what a checkpoint holds of a result."""
    return None if kept is None else asdict(kept)


def restored(state: dict[str, Any] | None) -> Kept | None:
    """Returns the result that a checkpoint holds."""
    return None if state is None else Kept(**state)


def metric_of(trainer: L.Trainer) -> str:
    """Returns the name of what this run judges its vectors by."""
    names = [name for found in _evals(trainer) for name in found.benchmark_names]
    if names:
        figures = [f"benchmark/{name}/accuracy" for name in sorted(names)]
        return figures[0] if len(figures) == 1 else f"mean of {', '.join(figures)}"
    data: Any = getattr(trainer, "datamodule", None)
    return VALIDATION if data is not None and has_validations(trainer, data) else SMOOTHED


def benchmark_value(trainer: L.Trainer) -> float | None:
    """Returns the mean accuracy on the benchmarks at this step; None if one was not measured."""
    found, names = dict[str, float](), list[str]()
    for callback in _evals(trainer):
        names += callback.benchmark_names
        found |= {
            x.benchmark: x.accuracy for x in callback.results if x.step == trainer.global_step
        }
    if not names or found.keys() != set(names):
        return None
    return math.fsum(found.values()) / len(found)


def _evals(trainer: L.Trainer) -> list[BenchmarkEval]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [x for x in callbacks if isinstance(x, BenchmarkEval) and x.every_n_steps]
