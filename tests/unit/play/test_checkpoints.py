"""The vectors that a run kept while it was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from steer_lightning import save_vectors
from steer_lightning.play.checkpoints import Checkpoints
from steer_lightning.steering import load_vectors
from steer_lightning.system.run_files import CONFIG, SUMMARY


def make_run(folder: Path, steps: tuple[int, ...], end: int) -> Path:
    for step in steps:
        file = folder / f"vectors/step_{step:06d}.safetensors"
        save_vectors(torch.full((2, 4), float(step)), file, base_model="m", step=step)
    (folder / "vectors").mkdir(parents=True, exist_ok=True)
    (folder / "vectors/other.safetensors").write_text("")
    (folder / CONFIG).write_text("{}")
    (folder / SUMMARY).write_text("{}")
    result = folder / "steering_vectors.safetensors"
    save_vectors(torch.full((2, 4), float(end)), result, base_model="m", step=end)
    return result


def test_the_last_vectors_until_a_step_are_found(tmp_path: Path) -> None:
    files = {
        "a": make_run(tmp_path / "a/run-1", (10, 20, 30), 35),
        "b": make_run(tmp_path / "b/run-1", (15, 40), 40),
        "alone": make_run(tmp_path / "c/run-1", (), 7),
    }
    checkpoints = Checkpoints(files, {name: load_vectors(x) for name, x in files.items()})
    assert checkpoints.steps == [10, 15, 20, 30, 35, 40]

    def at(step: int | None) -> dict[str, float]:
        found = checkpoints.at(step, load_vectors)
        return {name: float(x.vectors[0, 0].detach()) for name, x in found.items()}

    assert at(10) == {"a": 10, "b": 15}  # before its first file, that file
    assert at(19) == {"a": 10, "b": 15}
    assert at(20) == {"a": 20, "b": 15}
    assert at(34) == {"a": 30, "b": 15}
    assert at(35) == at(39) == {"b": 15}, "the first run has ended, with its result"
    assert at(40) == at(None) == {}, "the last ones are the results themselves"


def test_each_file_is_loaded_once(tmp_path: Path) -> None:
    file = make_run(tmp_path / "run-1", (10, 20), 20)
    checkpoints = Checkpoints({"a": file}, {"a": load_vectors(file)})
    first = checkpoints.at(10, load_vectors)["a"]
    assert checkpoints.at(11, load_vectors)["a"] is first


def test_runs_without_kept_vectors_have_no_steps(tmp_path: Path) -> None:
    file = make_run(tmp_path / "run-1", (), 3)
    checkpoints = Checkpoints({"a": file}, {"a": load_vectors(file)})
    assert checkpoints.steps == []
    assert checkpoints.at(3, load_vectors) == {}
