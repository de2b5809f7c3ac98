"""What a page says of several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.results.report import write_comparison
from steer_lightning.results.report.compared import (
    ABSENT,
    MOST_RUNS,
    differences,
    read_comparison,
    without_earlier_stages,
)
from tests import made_up_run


def test_only_what_differs_is_told() -> None:
    first = {"a": 1, "b": "x", "c": [1, 2], "trainer.default_root_dir": "p", "only": None}
    second = {"a": 1.5, "b": "x", "c": [1, 3], "trainer.default_root_dir": "q"}
    assert differences([first, second]) == [
        ["a", "1", "1.5"],
        ["c", "[1, 2]", "[1, 3]"],
        ["only", "null", ABSENT],
    ]
    assert differences([first, first, {"": {}}]) == [], "a run without settings makes none"
    assert differences([first, {**first, "a": 2}, {"": {}}]) == [["a", "1", "2", ABSENT]]


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("null", None), ("[1]", [1]), ("true", True)]
)
def test_a_text_that_reads_as_another_value_is_quoted(text: str, value: object) -> None:
    assert differences([{"k": text}, {"k": value}]) == [["k", f'"{text}"', text]]
    assert differences([{"k": "a b"}, {"k": ABSENT}, {}]) == [["k", "a b", f'"{ABSENT}"', ABSENT]]


def test_a_comparison_reads_curves_results_and_settings(tmp_path: Path) -> None:
    runs = [made_up_run.make_run(tmp_path / f"sweep-{k}/run-1", steps=20 * k) for k in (1, 2)]
    train = {"class_path": "steer_lightning.data.Arithmetic", "init_args": {"largest": 99}}
    made_up_run.write_config(runs[1], seed_everything=7, data={"train": train})
    (runs[0] / "config.yaml").unlink()
    found = read_comparison(runs)
    first, second = found["runs"]
    assert [run["name"] for run in (first, second)] == ["sweep-1/run-1", "sweep-2/run-1"]
    assert (first["last_step"], second["last_step"], found["last_step"]) == (20, 40, 40)
    assert first["curves"]["reward/mean"]["x"] == list(range(1, 21))
    assert "reward/kl" not in first["curves"]
    assert second["benchmarks"][0]["after"]["value"] == 0.7
    assert (first["task"], second["task"]) == (None, "Arithmetic")
    assert found["unknown"] == ["sweep-1/run-1"]
    assert found["differences"] == []
    made_up_run.write_config(runs[0], seed_everything=8, data={"train": train})
    found = read_comparison([*runs, made_up_run.make_run(tmp_path / "other")])
    assert [run["name"] for run in found["runs"]] == [
        *("sweep-1/run-1", "sweep-2/run-1", f"{tmp_path.name}/other")
    ]
    assert ["seed_everything", "8", "7", ABSENT] in found["differences"]


def test_a_resumed_run_is_one_of_those_compared(tmp_path: Path) -> None:
    first, second, other = (tmp_path / f"runs/run-{k}" for k in (1, 2, 3))
    for folder in (first, second, other):
        made_up_run.make_run(folder)
    made_up_run.write_config(second, ckpt_path="runs/run-1/checkpoints/last.ckpt")
    assert without_earlier_stages([first, second, other]) == [second, other]
    assert without_earlier_stages([first, other]) == [first, other]
    path = write_comparison([first, second, other], tmp_path / "out.html")
    assert "<title>2 runs: run-2, run-3</title>" in path.read_text()
    with pytest.raises(ConfigError, match="takes 2 to 20 runs, but these are 1"):
        write_comparison([first, second], tmp_path / "other.html")
    many = [made_up_run.make_run(tmp_path / f"many/{k}", 1) for k in range(MOST_RUNS + 1)]
    with pytest.raises(ConfigError, match="these are 21"):
        write_comparison(many, tmp_path / "other.html")
    with pytest.raises(ConfigError, match="holds no run"):
        write_comparison([first, tmp_path], tmp_path / "other.html")
    with pytest.raises(ConfigError, match="exists"):
        write_comparison([first, other], path)
    assert not (tmp_path / "other.html").exists()
