"""The command `report`, which writes one HTML file about a run, several runs or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steer_lightning.cli.options import read_options
from steer_lightning.errors import ConfigError
from steer_lightning.results.report import write_comparison, write_report, write_sweep
from steer_lightning.results.report.compared import MOST_RUNS, without_earlier_stages
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import REPORT, SWEEP, find_runs


def report(
    run: str | list[str],
    output: str | None = None,
    overwrite: bool = False,
    num_steps: int = 12,
    num_prompts: int = 8,
) -> Path:
    """Writes one HTML file about a run: curves, benchmarks, vectors, completions, settings.

    Several runs are compared: the page draws their curves together, and shows their results and the
    settings in which they differ.

    Args:
        run: Folder of a run. Several folders, or a folder that contains several runs, give a
            comparison. The folder of a sweep gives the page of all its experiments.
        output: File to write; null takes `report.html` in the run's folder or, for several runs,
            next to the folder of the first one; for a sweep `sweep.html` in its folder.
        overwrite: Whether to replace an existing file.
        num_steps: Number of steps of a single run whose completions are shown, evenly spaced.
        num_prompts: Number of prompts for each of these steps, and of problems for each benchmark;
            fewer if their text exceeds what a page can hold.

    Returns:
        Path of the file.

    Raises:
        ConfigError: If there is no run, one of its files is damaged, or the output exists.
    """
    named = [Path(name) for name in ([run] if isinstance(run, str) else run)]
    if not named:
        raise ConfigError("run", run, rule="must name at least one folder")
    if len(named) == 1 and (named[0] / SWEEP).exists() and not find_runs(named[0]):
        out = None if output is None else Path(output)
        return write_sweep(named[0], out, overwrite=overwrite)
    runs = [found for folder in named for found in (_runs_in(folder) or [folder])]
    if len(runs) > 1:
        path = runs[0].absolute().parent / REPORT if output is None else Path(output)
        return write_comparison(runs, path, overwrite=overwrite)
    (folder,) = runs  # if it is not a run, `write_report` says so
    if folder != named[0]:
        print(f"{one_line(folder)} is the only run in {one_line(named[0])}")
    return write_report(
        folder,
        None if output is None else Path(output),
        overwrite=overwrite,
        num_steps=num_steps,
        num_prompts=num_prompts,
    )


def _runs_in(folder: Path) -> list[Path]:
    """Returns the runs in a folder, oldest first; only the newest ones if there are too many."""
    runs = without_earlier_stages(find_runs(folder)[::-1])
    if len(runs) > MOST_RUNS:
        print(f"comparing the newest {MOST_RUNS} of {len(runs)} runs in {one_line(folder)}")
    return runs[-MOST_RUNS:]


def run(words: Sequence[str]) -> None:
    """Runs `report`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake.
    """
    options = read_options(
        words[1:],
        report,
        prog="steer-lightning report",
        description="Writes one HTML file about a run, or a comparison of several runs. "
        "It needs no server and no network.",
        positional="run",
    )
    print(f"report: {one_line(report(**options))}")
