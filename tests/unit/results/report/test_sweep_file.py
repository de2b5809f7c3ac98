"""`sweep.json` as a text, and the figures in it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from steer_lightning.results.report import sweep_file
from steer_lightning.results.report.sweep_file import (
    NO_FIGURES,
    entry_line,
    last_of,
    read_figures,
    read_sweep,
    sweep_text,
)
from tests import made_up_run, made_up_sweep


def test_the_text_has_an_experiment_on_each_line() -> None:
    lines = [
        entry_line({"name": name, "reward": value}) for name, value in (("a", 0.5), ("b", math.nan))
    ]
    text = sweep_text({"format": 1, "options": {"grid": [math.inf, 1]}}, lines)
    assert text.splitlines()[5] == '    {"name": "b", "reward": null}'
    assert json.loads(text) == {
        "format": 1,
        "options": {"grid": [None, 1]},
        "experiments": [{"name": "a", "reward": 0.5}, {"name": "b", "reward": None}],
    }
    assert json.loads(sweep_text({"format": 1}, [])) == {"format": 1, "experiments": []}


def test_figures_of_a_run(tmp_path: Path) -> None:
    run = made_up_sweep.write_run(tmp_path / "run-1", steps=7)
    values = [0, 1, 0, 1, 1, 1, 1]
    lines = [f"{k},{value},{10 + k}" for k, value in enumerate(values, 1)]
    (run / "metrics.csv").write_text(
        "\n".join(["step,reward/mean,completion/length_mean", *lines, ""])
    )
    found = read_figures(run)
    assert found["reward_start"] == pytest.approx(3 / 5), "steps 1 to 5"
    assert found["reward_end"] == pytest.approx(4 / 5), "steps 3 to 7"
    assert found["completion_length"] == pytest.approx(15)
    assert found["steps"] == 7


def test_a_long_run_has_the_figures_of_its_page(tmp_path: Path) -> None:
    run = made_up_run.make_run(tmp_path / "run-1", steps=1000)
    made_up_run.write_metrics(run, range(1, 1001), **{"reward/mean": lambda step: step / 1000})
    found = read_figures(run)
    # a curve of 500 points, each the mean of two steps
    assert found["reward_start"] == pytest.approx(0.0015)
    assert found["reward_end"] == pytest.approx(0.9995)


def test_unfinished_and_unreadable_numbers(tmp_path: Path) -> None:
    assert read_figures(tmp_path / "nowhere") == NO_FIGURES
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n1,0.5\n2,nan\n3,1\n4,0.")
    found = read_figures(tmp_path)
    assert found["reward_end"] == 0.75, "the mean of 0.5 and 1; NaN and half a line are left out"
    assert found["completion_length"] is None
    assert found["benchmarks"] == {}
    assert last_of(None) is None


def test_there_may_be_no_file(tmp_path: Path) -> None:
    assert read_sweep(tmp_path) is None
    (tmp_path / "sweep.json").mkdir()
    with pytest.raises(sweep_file.ConfigError, match="can't be read"):
        read_sweep(tmp_path)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = read_sweep(made_up_sweep.make_grid(tmp_path))
    assert found is not None
    assert found["options"]["grid"] == made_up_sweep.GRID
    assert [one["name"] for one in found["experiments"]][:2] == [
        *("lr=0.005_seed_everything=0", "lr=0.005_seed_everything=1")
    ]
    assert found["keys"] == {made_up_sweep.LR: "lr", "seed_everything": "seed_everything"}
