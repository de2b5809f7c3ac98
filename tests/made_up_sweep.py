"""Folders of sweeps that never were, in the files that real ones leave."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_lightning.results.report.sweep_file import NO_FIGURES, entry_line, sweep_text
from steer_lightning.sweep.experiments import Experiment, differing_keys, each_layer, from_grid
from tests import made_up_run

LR, SEED = "model.optimizer.init_args.lr", "seed_everything"
GRID = {LR: [0.005, 0.02, 0.08], SEED: [0, 1]}


def write_run(folder: Path, *, end: float = 0.9, steps: int = 20, benchmark: bool = True) -> Path:
    """The run of an experiment: the reward goes to `end`; half of it is the accuracy after."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,reward/mean,completion/length_mean"]
    lines += [
        f"{step},{end * (1 - math.exp(-step / 5)):.6g},{20 - step / 4}"
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    shares: dict[str, Any] = {"accuracy_before": {}, "accuracy_after": {}}
    if benchmark:
        after = end / 2
        shares = {"accuracy_before": {"sums": 0.2}, "accuracy_after": {"sums": after}}
        shares["interval_before"] = {"sums": [0.1, 0.3]}
        shares["interval_after"] = {"sums": [after - 0.1, after + 0.1]}
    made_up_run.write_summary(folder, num_steps=steps, **shares)
    made_up_run.write_config(folder)
    (folder / "report.html").write_text("the report of this run")
    return folder


def entry(root: Path, experiment: Experiment, **more: Any) -> dict[str, Any]:
    """An experiment that has ended, as `sweep.json` lists it."""
    return {
        **{"name": experiment.name, "settings": experiment.settings, "reason": None},
        **{"run": f"{experiment.name}/run-1", "status": "ended", **NO_FIGURES, **more},
    }


def write_file(root: Path, entries: Sequence[Mapping[str, Any]], **options: Any) -> Path:
    """`sweep.json`."""
    keys = differing_keys([one["settings"] for one in entries])
    asked = {"grid": None, "experiments": None, "each_layer": False, **options}
    head = {"format": 1, "version": "1", "options": asked, "keys": keys}
    root.mkdir(parents=True, exist_ok=True)
    (root / "sweep.json").write_text(sweep_text(head, [entry_line(one) for one in entries]))
    json.loads((root / "sweep.json").read_text())
    return root


def make_grid(root: Path, grid: Mapping[str, Sequence[Any]] = GRID, **more: Any) -> Path:
    """A sweep over a grid; the k-th of n experiments gets a reward of (k + 1) / n."""
    experiments = from_grid(grid)
    for k, one in enumerate(experiments, 1):
        write_run(root / one.name / "run-1", end=k / len(experiments), **more)
    return write_file(root, [entry(root, one) for one in experiments], grid=grid)


def make_layers(root: Path, num_layers: int = 4) -> Path:
    """A sweep over layers; layer k gets an accuracy of (k + 1) / (2 n), from 20 %."""
    experiments = each_layer(num_layers)
    for k, one in enumerate(experiments, 1):
        write_run(root / one.name / "run-1", end=k / num_layers)
    return write_file(root, [entry(root, one) for one in experiments], each_layer=True)
