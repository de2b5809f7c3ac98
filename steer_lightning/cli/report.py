"""The command `report`, which makes one HTML file from a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steer_lightning.cli.options import read_options
from steer_lightning.results.report import write_report
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import find_runs


def report(
    run: str,
    output: str | None = None,
    overwrite: bool = False,
    num_steps: int = 12,
    num_prompts: int = 8,
) -> Path:
    """Writes one HTML file about a run: curves, benchmarks, vectors, completions, settings.

    Args:
        run: Folder of the run, or the folder of several runs, whose newest one is taken.
        output: File to write; null takes `report.html` in the run's folder.
        overwrite: Whether to replace an earlier file.
        num_steps: Number of steps whose completions are shown, evenly spaced.
        num_prompts: Number of prompts of each of these steps, and of problems of each benchmark;
            fewer where their texts exceed what a page can hold.

    Returns:
        Path of the file.

    Raises:
        ConfigError: If there is no run, one of its files is damaged, or the output exists.
    """
    runs = find_runs(Path(run))
    folder = runs[0] if runs else Path(run)  # without a run in it, `write_report` says so
    if folder != Path(run):
        print(f"{one_line(folder)} is the newest of {len(runs)} runs in {one_line(run)}")
    return write_report(
        folder,
        None if output is None else Path(output),
        overwrite=overwrite,
        num_steps=num_steps,
        num_prompts=num_prompts,
    )


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
        description="Makes one HTML file from a run's folder: no server, no network.",
        positional="run",
    )
    print(f"report: {one_line(report(**options))}")
