"""Executes the notebooks of the tutorials and saves their outputs, which the site shows.

    python scripts/run_notebooks.py                                     # all of them, some minutes
    python scripts/run_notebooks.py docs/tutorials/look-inside.ipynb    # some of them
    python scripts/run_notebooks.py --output FOLDER                     # leaves the originals alone

Needs `pip install -e ".[docs,export]"`. Each notebook runs from start to end in a kernel of this
interpreter, with one thread and without a network, and works in a temporary folder of its own. A
cell that fails ends the script, and nothing of that notebook is saved. No timestamps are kept, so
that a notebook only changes where its outputs do.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs/tutorials"


def environment() -> dict[str, str]:
    """Returns the variables of the kernel, whose shell commands find this interpreter's first."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    packages = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": packages}
    return {**os.environ, **fixed, "PATH": programs, "COLUMNS": "100"}


def tidy(notebook: Any) -> None:
    """Joins what a cell has printed in parts, and leaves out all that differs between machines."""
    for cell in notebook.cells:
        joined: list[Any] = []
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if output.output_type == "stream":  # a shell command's lines end as on a terminal
                output.text = output.text.replace("\r\n", "\n")
            same = joined and joined[-1].get("name", "") == output.get("name")
            if same:
                joined[-1].text += output.text
            else:
                joined.append(output)
        if "outputs" in cell:
            cell.outputs = joined
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    language = {"name": "python", "pygments_lexer": "ipython3"}  # knows lines with ! and %%
    facts = {"kernelspec": kernel, "language_info": language}
    notebook.metadata = nbformat.from_dict(facts)


def execute(source: Path, target: Path) -> float:
    """Executes a notebook from start to end, and writes it with its outputs.

    Args:
        source: Notebook to read.
        target: File to write; may be the same.

    Returns:
        Seconds that it took.

    Raises:
        CellExecutionError: If a cell fails; nothing is written then.
    """
    started = time.perf_counter()
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(notebook, timeout=900, record_timing=False, kernel_name="python3")
    client.execute(env=environment())
    tidy(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    return time.perf_counter() - started


def main() -> None:
    """Executes the notebooks that are named, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all tutorials by default")
    parser.add_argument("--output", type=Path, help="folder for the executed notebooks")
    options = parser.parse_args()
    for source in options.notebooks or sorted(TUTORIALS.glob("*.ipynb")):
        target = source if options.output is None else options.output / source.name
        print(f"{source.name}: {execute(source, target):.0f} s")


if __name__ == "__main__":
    main()
