"""The page about a run, several runs or a sweep: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.report.compared import (
    MOST_RUNS,
    read_comparison,
    without_earlier_stages,
)
from steer_lightning.results.report.contents import read_contents
from steer_lightning.results.report.files import Record
from steer_lightning.results.report.swept import read_swept
from steer_lightning.system.printable import printable
from steer_lightning.system.run_files import REPORT, SWEEP_PAGE, is_run
from steer_lightning.system.whole_files import write_bytes

SCRIPTS = (
    *("vendor/d3.min.js", "vendor/plot.umd.min.js"),
    *("dom.js", "save.js", "charts.js", "panels.js", "summary.js", "curves.js", "evaluation.js"),
    *("capability.js", "lens.js", "inside.js", "browser.js", "setup.js", "compare.js"),
    *("sweep_curves.js", "sweep_table.js", "sweep_maps.js", "sweep.js", "main.js"),
)
PLOT_STYLE = "sha256-jSYQUrW7J0b3jPqhZP9C2Xh1PyJKHKXd4s0fpGGKrww="
"""Hash of the style that Observable Plot puts into each picture; it changes with the library."""

ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
"""Escapes of characters with which a text could end the data element, or a line of JavaScript."""


def write_report(
    folder: Path,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    num_steps: int = 12,
    num_prompts: int = 8,
) -> Path:
    """Writes the page about a run.

    Args:
        folder: Folder of the run, which may have been interrupted.
        output: File to write; by default `report.html` in the folder.
        overwrite: Whether to replace an existing file.
        num_steps: Number of steps whose completions are shown.
        num_prompts: Number of prompts shown per step, and of problems per benchmark.

    Returns:
        The path of the page.

    Raises:
        ConfigError: If the folder holds no run, a file in it is damaged, or `output` exists.
        OSError: If the file can't be written; an earlier file stays unchanged.
    """
    for key, value in (("num_steps", num_steps), ("num_prompts", num_prompts)):
        if value < 1:
            raise ConfigError(key, value, rule="must be at least 1")
    path = folder / REPORT if output is None else output
    _check_output(path, overwrite)
    _check_run(folder)
    contents = read_contents(folder, num_steps, num_prompts)
    title = ", ".join(str(contents[key]) for key in ("task", "run") if contents[key])
    write_bytes(path, as_page(contents, title, "run.html").encode())
    return path


def write_comparison(folders: Sequence[Path], output: Path, *, overwrite: bool = False) -> Path:
    """Writes the page that compares runs: their curves drawn together, and their differences.

    Args:
        folders: Folders of the runs, in the order in which they are shown. A run that another one
            of them resumes is shown as a part of that run.
        output: File to write.
        overwrite: Whether to replace an existing file.

    Returns:
        The path of the page.

    Raises:
        ConfigError: If a folder holds no run, there are fewer than two runs or too many, a file in
            a folder is damaged, or `output` exists.
        OSError: If the file can't be written; an earlier file stays unchanged.
    """
    _check_output(output, overwrite)
    for folder in folders:
        _check_run(folder)
    folders = without_earlier_stages(list(dict.fromkeys(folders)))
    if not 2 <= len(folders) <= MOST_RUNS:
        raise ConfigError(
            "run",
            [str(folder) for folder in folders],
            rule=f"a comparison takes 2 to {MOST_RUNS} runs, but these are {len(folders)}",
            why="A run that another one resumes counts as a part of it",
            fix="Name the runs that you want to compare",
        )
    contents = read_comparison(folders)
    title = f"{len(folders)} runs: {', '.join(run['name'] for run in contents['runs'])}"
    write_bytes(output, as_page(contents, title, "comparison.html").encode())
    return output


def write_sweep(root: Path, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Writes the page about the experiments of a sweep.

    Args:
        root: Folder of the sweep, with its `sweep.json`.
        output: File to write; by default `sweep.html` in the folder.
        overwrite: Whether to replace an existing file.

    Returns:
        The path of the page.

    Raises:
        ConfigError: If the folder holds no sweep, its `sweep.json` is damaged, or `output` exists.
        OSError: If the file can't be written; an earlier file stays unchanged.
    """
    path = root / SWEEP_PAGE if output is None else output
    _check_output(path, overwrite)
    contents = read_swept(root)
    # links to runs start at the folder of the page
    contents["root"] = os.path.relpath(root, path.absolute().parent)
    title = f"{contents['sweep']}: sweep of {len(contents['experiments'])} experiments"
    write_bytes(path, as_page(contents, title, "experiments.html").encode())
    return path


def _check_output(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise ConfigError("output", str(path), rule="must be a file", why="It is a folder")
    if path.exists() and not overwrite:
        raise ConfigError(
            "output", str(path), rule="already exists", fix="Name another file, or set --overwrite"
        )


def _check_run(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError("run", str(folder), rule="there is no such folder")
    if not is_run(folder):
        raise ConfigError(
            "run",
            str(folder),
            rule="holds no run",
            why="It has none of the files that `fit` writes, such as metrics.csv",
        )


def as_page(contents: Record, title: str, body: str) -> str:
    """Returns a page as HTML, with data, styles and scripts in one file.

    The data is JSON, which no browser runs. If a script got in nevertheless, the policy in the head
    of the page would block it: it allows only the scripts of this function, by their hashes.

    Args:
        contents: Data of the page.
        title: Title of the page; it may be any text.
        body: Name of the file with the page's sections, which its scripts fill.
    """
    style = _read("report.css")
    scripts = [_read(name) for name in SCRIPTS]
    return Template(_read("template.html")).substitute(
        policy=html.escape(_policy([style], scripts)),
        title=html.escape(printable(title)),
        body=_read(body),
        licences=_read("vendor/LICENSES"),
        style=style,
        data=as_json(contents),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _read(name: str) -> str:
    return (files("steer_lightning.results.report") / name).read_text(encoding="utf-8")


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Returns a policy that loads nothing, and allows only these scripts and styles, no markup."""
    own = " ".join([*(f"'{_hash(style)}'" for style in styles), f"'{PLOT_STYLE}'"])
    return "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(f"'{_hash(script)}'" for script in scripts),
            f"style-src {own}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def as_json(contents: Any) -> str:
    """Encodes data as JSON for an HTML page.

    Control characters, text direction marks and lone surrogates appear as escapes; numbers that are
    not finite become null.
    """
    text = json.dumps(_clean(contents), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPES)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {printable(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value if value is None or isinstance(value, int) else printable(str(value))
