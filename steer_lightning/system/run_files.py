"""The map of a run's folder: the name of every file in it, and how runs are numbered and locked.

    runs/                                 RUNS, or `trainer.default_root_dir`
      run-1/                              a run; a run that resumes it has the folder run-2
        config.yaml                       CONFIG
        metrics.csv                       METRICS
        rollouts/step_000001.parquet      ROLLOUT_PARTS, during the run
        rollouts.parquet                  ROLLOUTS, at its end
        skipped/step_000001.pt            SKIPPED
        steering_vectors.safetensors      `file_name` of what is trained; other kinds, other names
        best.safetensors                  BEST, with the suffix of that name; a folder for LoRA
        vectors/step_000010.safetensors   EVERY_VECTORS
        lens.jsonl                        LENS_LINES
        lens.json                         LENS
        checkpoints/last.ckpt             CHECKPOINTS, LAST_CHECKPOINT
        checkpoints/previous.ckpt         CHECKPOINTS, PREVIOUS_CHECKPOINT
        summary.json                      SUMMARY
        reward_curve.png                  REWARD_CURVE
        report.html                       REPORT
        lens/                             LENS_FOLDER, from the command `lens`
          lens.json                       LENS
          lens.png                        LENS_PICTURE
          inside.png                      INSIDE_PICTURE
          between.json                    BETWEEN
          between.png                     BETWEEN_PICTURE
        evaluation/                       EVALUATION, from the command `evaluate`
          settings.json                   EVALUATION_SETTINGS
          parts/                          EVALUATION_PARTS
          completions.parquet             COMPLETIONS
          results.json                    RESULTS
          comparison.png                  COMPARISON
          pass_at_k.png                   PASS_CURVE
          side_effects.json               SIDE_EFFECTS
          dose.png                        DOSE
          budget.png                      BUDGET
      report.html                         REPORT, of several runs, from the command `report`
      NAME/run-1/                         the run of an experiment, from the command `sweep`
      sweep.json                          SWEEP, from the command `sweep`
      sweep.html                          SWEEP_PAGE, from the command `sweep`
      difference/                         DIFFERENCE, from the command `difference`
        steering_vectors.safetensors      `file_name` of SteeringVectors
        difference.json                   DIFFERENCE_NUMBERS

All code that writes or reads one of these files takes its name from here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import one_line

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

RUNS = "runs"
"""The folder of all runs, unless a configuration names another."""

CONFIG = "config.yaml"
"""The resolved configuration of the run, written before anything else."""

METRICS = "metrics.csv"
"""One row of metrics for each logged step."""

ROLLOUT_PARTS = "rollouts"
"""A folder with the completions of each step, one file for each step and process."""

ROLLOUTS = "rollouts.parquet"
"""All completions of a run that has ended, joined from `ROLLOUT_PARTS`."""

SKIPPED = "skipped"
"""A folder with the batches of skipped optimizer steps, whose gradient was not finite."""

EVERY_VECTORS = "vectors"
"""A folder with the vectors of earlier steps, if `VectorCheckpoint` keeps them all."""

BEST = "best"
"""Name, without its suffix, of the best result of the run; `VectorCheckpoint` keeps it."""

LENS_LINES = "lens.jsonl"
"""What the lens sees during training, one line for each look."""

LENS = "lens.json"
"""Everything that the lens shows of the vectors in one file, or of a run's final vectors."""

CHECKPOINTS = "checkpoints"
"""A folder with the states from which a run can resume."""

LAST_CHECKPOINT = "last.ckpt"
"""The newest state of the run."""

PREVIOUS_CHECKPOINT = "previous.ckpt"
"""The state before the newest one; one of the two is intact, whenever the run is killed."""

SUMMARY = "summary.json"
"""The results of the run; a run without this file has not ended."""

REWARD_CURVE = "reward_curve.png"
"""The reward and the accuracies over the steps, as a picture."""

REPORT = "report.html"
"""The page about the run; next to the runs, the page that compares them."""

LENS_FOLDER = "lens"
"""The folder of the command `lens`, beside the vectors that it looks at."""

LENS_PICTURE = "lens.png"
"""The content of `LENS` as a picture."""

INSIDE_PICTURE = "inside.png"
"""What attention and MLPs make of the vectors, as a picture."""

BETWEEN = "between.json"
"""Cosines between the vectors of several files."""

BETWEEN_PICTURE = "between.png"
"""The content of `BETWEEN` as a picture."""

EVALUATION = "evaluation"
"""The folder of the command `evaluate`, beside the vectors that it evaluates."""

EVALUATION_SETTINGS = "settings.json"
"""Everything on which the completions and verdicts of an evaluation depend."""

EVALUATION_PARTS = "parts"
"""A folder with the finished batches of an evaluation that has not ended."""

COMPLETIONS = "completions.parquet"
"""All completions of an evaluation, with their verdicts."""

RESULTS = "results.json"
"""The figures of an evaluation, one row for each benchmark, arm and metric."""

COMPARISON = "comparison.png"
"""The figures of an evaluation as a picture."""

PASS_CURVE = "pass_at_k.png"
"""pass@k of the arms of an evaluation against k as a picture."""

SIDE_EFFECTS = "side_effects.json"
"""What the arms of an evaluation change on neutral text."""

DOSE = "dose.png"
"""Benefit and harm of the scales of an evaluation as a picture."""

BUDGET = "budget.png"
"""Accuracy against tokens of the budgets of an evaluation as a picture."""

SWEEP = "sweep.json"
"""The experiments of a sweep, beside their folders: settings, status and figures."""

SWEEP_PAGE = "sweep.html"
"""The page about all experiments of a sweep."""

DIFFERENCE = "difference"
"""The folder of the command `difference`, beside the runs."""

DIFFERENCE_NUMBERS = "difference.json"
"""The numbers of a difference of means, and the accuracy at each scale."""

SIGNS = (METRICS, SUMMARY, ROLLOUTS, ROLLOUT_PARTS, LENS)
"""Files that only runs write; a folder with any of them is the folder of a run."""


def step_name(step: int) -> str:
    """Returns the beginning of the name of a file that belongs to one step."""
    return f"step_{step:06d}"


def rollout_parts(folder: Path) -> list[Path]:
    """Lists the files of a folder `ROLLOUT_PARTS` in the order of their steps."""
    return sorted(folder.glob("step_*.parquet"))


def checkpoint_files(run: Path) -> tuple[Path, Path]:
    """Returns the paths of a run's newest and previous checkpoints; both may be missing."""
    folder = run / CHECKPOINTS
    return folder / LAST_CHECKPOINT, folder / PREVIOUS_CHECKPOINT


def run_of_checkpoint(checkpoint: Path) -> Path:
    """Returns the folder of the run that wrote a checkpoint, if the file has not been moved."""
    return checkpoint.absolute().parents[1]


def is_run(folder: Path) -> bool:
    """Tells whether a folder is the folder of a run."""
    return any((folder / name).exists() for name in SIGNS)


def new_run_folder(root: Path) -> Path:
    """Creates `root/run-N` with the first free N; no run ever writes into another run's folder.

    Raises:
        ConfigError: If the folder can't be created, because a file is in its way, permissions are
            missing, or the disk is full.
    """
    key = "trainer.default_root_dir"
    try:
        return _new_run_folder(root)
    except (FileExistsError, NotADirectoryError) as error:
        why = f"{error.filename} is a file"
        raise ConfigError(key, str(root), rule="must be a folder", why=why) from error
    except OSError as error:
        rule, why = "no folder can be created there", f"{error.filename}: {error.strerror}"
        fix = f"Set {key} to a folder that you may write to"
        raise ConfigError(key, str(root), rule=rule, why=why, fix=fix) from error


def _new_run_folder(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    number = 1 + max((run_number(path) for path in root.iterdir()), default=0)
    while True:
        folder = root / f"run-{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another process has just taken this number
            number += 1
        else:
            return folder


def run_folders(root: Path) -> list[Path]:
    """Returns the folders of the runs under `root`, newest first."""
    return sorted(root.glob("run-*"), key=run_number, reverse=True)


def find_runs(folder: Path) -> list[Path]:
    """Returns the folder itself if it belongs to a run, otherwise the runs in it, newest first."""
    return [folder] if is_run(folder) else [run for run in run_folders(folder) if is_run(run)]


def run_number(path: Path) -> int:
    """Returns N of a folder `run-N`, or 0 for any other name."""
    match = re.fullmatch(r"run-(\d+)", path.name)
    return int(match[1]) if match else 0


def lock(run: Path) -> int:
    """Marks a run as running.

    Returns:
        A descriptor; the mark is removed when it is closed, or when this process ends.
    """
    descriptor = os.open(run, os.O_RDONLY)
    _take_lock(descriptor)
    return descriptor


def is_locked(run: Path) -> bool:
    """Tells whether a run is still running."""
    descriptor = os.open(run, os.O_RDONLY)
    free = _take_lock(descriptor)
    os.close(descriptor)
    return not free


def _take_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning(
            "this file system has no locks (%s): a second start of the same command would resume "
            "a run that is still running",
            one_line(error),
        )
    return True
