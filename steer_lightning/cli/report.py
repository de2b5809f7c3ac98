"""`report`: a run's folder as one HTML file that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steer_lightning.cli.options import read_options
from steer_lightning.results.report import write_report
from steer_lightning.results.report.files import is_run
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import run_folders


def report(
    run: str,
    output: str | None = None,
    overwrite: bool = False,
    num_steps: int = 12,
    num_prompts: int = 8,
) -> Path:
    """Writes one HTML file about a run: curves, benchmarks, vectors, completions, settings.

    Args:
        run: The run's folder, or the folder of several runs, whose newest one is taken.
        output: The file; null takes `report.html` in the run's folder.
        overwrite: Replaces an earlier file.
        num_steps: Steps whose completions are shown, evenly spaced.
        num_prompts: Prompts of each of them, and problems of each benchmark; fewer where their
            texts exceed what a page can hold.

    Returns:
        The file.

    Raises:
        ConfigError: If there is no run, one of its files is damaged, or the output exists.
    """
    return write_report(
        _newest(Path(run)),
        None if output is None else Path(output),
        overwrite=overwrite,
        num_steps=num_steps,
        num_prompts=num_prompts,
    )


def _newest(folder: Path) -> Path:
    """The folder itself if it is a run's, else the newest of the runs in it."""
    runs = [path for path in run_folders(folder) if is_run(path)] if folder.is_dir() else []
    if is_run(folder) or not runs:
        return folder
    print(f"{one_line(runs[0])} is the newest of {len(runs)} runs in {one_line(folder)}")
    return runs[0]


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
