"""The tutorials: each notebook runs from start to end, and its stored outputs are clean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs/tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
MACHINE = re.compile(r"(?<![\w.])/(tmp|home|work|root|Users|var)/")
"""The beginning of a path of somebody's machine."""


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(cell: dict[str, Any]) -> Iterator[str]:
    """The texts of a cell's outputs; pictures are left out."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield "".join(output["text"])
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield "".join(data)


def all_text(notebook: dict[str, Any]) -> str:
    return "\n".join(text for cell in code_cells(notebook) for text in texts(cell))


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_tutorial_is_in_the_index() -> None:
    index = (TUTORIALS / "index.md").read_text()
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        assert f"]({path.name})" in index
        assert f"\n{path.stem}\n" in index


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_one_run_from_start_to_end(path: Path) -> None:
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "display_data", "execute_result"}, "no error is stored"
        source = "".join(cell["source"])
        tells = "print(" in source or source.startswith(("!", "%%bash")) or "plt.show()" in source
        defines = re.match(r"(\S.*\n)*def ", source)
        redirected = all("> " in line for line in source.splitlines() if line.startswith("!"))
        if tells and not defines and not (source.startswith("!") and redirected):
            assert cell["outputs"], source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_name_no_machine_and_have_no_noise(path: Path) -> None:
    notebook = read(path)
    assert not MACHINE.search(all_text(notebook))
    assert not MACHINE.search("".join("".join(cell["source"]) for cell in notebook["cells"]))
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            assert output.get("name") != "stderr", output["text"]
        for text in texts(cell):
            assert "\r" not in text, "a progress bar"
            assert "%|" not in text, "a progress bar"
    assert path.stat().st_size < 300_000


def accuracies(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"(?:accuracy|mean right_sum) ([\d.]+)%", text)]


def check_first_vectors(text: str) -> None:
    before, after, *_ = accuracies(text)
    assert before < 30
    assert after > 80
    assert "768 numbers" in text
    (gain,) = re.findall(r"^steered .*?\+([\d.]+) \[", text, re.MULTILINE)
    assert float(gain) > 50


def check_reward_and_data(text: str) -> None:
    assert "[1.0, 0.0, 0.0, None]" in text
    before, after, *_ = accuracies(text)
    assert after > before + 40
    assert "no group has had signal" in text
    assert "IndexError" in text
    guessed = re.findall(r"^accuracy after:\s+(\d+)%", text, re.MULTILINE)
    assert int(guessed[-1]) < before


def check_look_inside(text: str) -> None:
    assert re.search(r'^"Ones"\s+[\d.]+\s+9\d', text, re.MULTILINE)
    arms = dict(re.findall(r"^(steered without layer \d)\s+([\d.]+)", text, re.MULTILINE))
    assert len(arms) == 4
    assert min(map(float, arms.values())) < 85  # some layer matters
    assert re.search(r"^steered x 1\.5", text, re.MULTILINE)


def check_take_it_with_you(text: str) -> None:
    (off,) = re.findall(r"^largest difference to the steered base: (\S+e-\S+)", text, re.MULTILINE)
    (effect,) = re.findall(r"^largest effect of the vectors: +(\S+)", text, re.MULTILINE)
    assert float(off) < 1e-4
    assert float(effect) > 1
    assert text.count(r"\boxed{122}") >= 3  # attached, merged, adapter
    assert "direction.3 (192,)" in text


CHECKS = {
    "first-vectors": check_first_vectors,
    "look-inside": check_look_inside,
    "reward-and-data": check_reward_and_data,
    "take-it-with-you": check_take_it_with_you,
}


def check_results(path: Path) -> None:
    """The outputs of a notebook are those that its text speaks of."""
    text = all_text(read(path))
    assert text
    CHECKS[path.stem](text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_show_what_the_text_says(path: Path) -> None:
    check_results(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the kernel's client
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason='needs pip install -e ".[docs]"')
    from scripts.run_notebooks import execute

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = path.read_bytes()
    target = tmp_path / path.name
    execute(path, target)
    check_results(target)
    assert [cell["source"] for cell in read(target)["cells"]] == [
        cell["source"] for cell in read(path)["cells"]
    ]
    assert path.read_bytes() == before
    assert not (TUTORIALS / "runs").exists()
