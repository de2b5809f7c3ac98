"""What the page of a sweep holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.results.report import swept
from steer_lightning.results.report.swept import find_grid, find_layers, read_swept
from steer_lightning.sweep.experiments import from_file
from tests import made_up_sweep

LR, SEED = made_up_sweep.LR, made_up_sweep.SEED
LAYERS = "model.steering.init_args.layers"
FULL: list[dict[str, Any]] = [{LR: rate, SEED: seed} for rate in (1, 2) for seed in (0, 1)]
CONFIGS = Path(__file__).parents[4] / "configs"


def entries(*settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": str(k), "settings": found} for k, found in enumerate(settings)]


def test_a_grid_is_laid_out_by_its_two_keys() -> None:
    grid = {SEED: [0, 1], LR: [0.1, 0.02, 3e-05], "data.batch_size": [8]}
    rows = [
        {SEED: seed, LR: rate, "data.batch_size": 8}
        for seed in (0, 1)
        for rate in (0.1, 0.02, 3e-5)
    ]
    found = find_grid(grid, entries(*rows))
    assert found == {
        "keys": [LR, SEED],
        "rows": ["3e-05", "0.02", "0.1"],
        "columns": ["0", "1"],
        "cells": [[2, 5], [1, 4], [0, 3]],
    }, "the key with more values has the rows"


def test_experiments_of_an_earlier_grid_are_in_it_and_gaps_are_left() -> None:
    rows = [
        {LR: 1.0, SEED: 0},
        {LR: 2, SEED: 0},
        {LR: 1, SEED: 1},
        {LR: 5},
        {LR: 1, SEED: 0, "x": 1},
    ]
    found = find_grid({LR: [1, 2], SEED: [0]}, entries(*rows))
    assert found is not None
    assert (found["rows"], found["columns"]) == (["1", "2"], ["0", "1"])
    assert found["cells"] == [[0, 2], [1, None]]


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {LR: [1, 2]},
        {LR: [1, 2], SEED: [0]},
        {LR: [1, 2], SEED: [0, 1], "x": [1, 2]},
    ],
)
def test_other_grids_have_no_map(grid: dict[str, Any]) -> None:
    values = [{key: values[k % len(values)] for key, values in grid.items()} for k in range(2)]
    assert find_grid(grid, entries(*values)) is None


def test_a_list_that_is_a_full_grid_is_laid_out() -> None:
    listed = [one.settings for one in from_file(CONFIGS / "sweep/rates-and-seeds.yaml")]
    assert find_grid(None, entries(*listed)) == {
        "keys": [LR, SEED],
        "rows": ["0.005", "0.02", "0.08"],
        "columns": ["0", "1"],
        "cells": [[0, 1], [2, 3], [4, 5]],
    }
    same = [{**settings, "data.batch_size": 8} for settings in reversed(listed)]
    found = find_grid(None, entries(*same))
    assert found is not None, "a setting that all have alike is no third one"
    assert found["cells"] == [[5, 4], [3, 2], [1, 0]]
    assert find_grid(None, entries(*same, {LAYERS: [0]})) == found, "others of the folder"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{LR: 1}, {LR: 2}],
        [{LR: 1, SEED: 0}, {LR: 2, SEED: 0}],
        [{LR: 1, SEED: 0}, {LR: 2, SEED: 0}, {LR: 1, SEED: 1}],
        [{LR: 1, SEED: 0}, {LR: 2, SEED: 1}],
        [{"x": 1}, *FULL],
        [*FULL, {LR: "1", SEED: 0}],
        [{**row, "x": k} for k, row in enumerate(FULL)],
    ],
)
def test_other_lists_have_no_map(rows: list[dict[str, Any]]) -> None:
    assert find_grid(None, entries(*rows)) is None
    assert find_grid(None, entries(*FULL)) is not None


def test_single_layers_are_found() -> None:
    rows = [{LAYERS: [10]}, {LAYERS: [2]}, {LAYERS: [1, 2]}, {LAYERS: "all"}, {LR: 1}, {LAYERS: 3}]
    assert find_layers(entries(*rows)) == [[2, 1], [3, 5], [10, 0]]
    assert find_layers(entries({LAYERS: [0]}, {LAYERS: [True]})) == []
    assert find_layers(entries({LAYERS: [0], LR: 1}, {LAYERS: [1], LR: 1})) == []


def test_figures_curves_and_values(tmp_path: Path) -> None:
    found = read_swept(made_up_sweep.make_grid(tmp_path))
    assert found["keys"] == [[LR, "lr"], [SEED, SEED]]
    assert found["base"] == "a/model"
    assert found["last_step"] == 20
    third = found["experiments"][2]
    assert third["values"] == [["0.02", 0.02], ["0", 0.0]]
    assert third["has_report"]
    assert third["curve"]["x"] == list(range(1, 21))
    assert third["curve"]["y"][-1] == pytest.approx(third["reward_end"], rel=1e-3)
    assert third["benchmarks"]["sums"]["after"]["value"] == pytest.approx(0.25)


def test_a_damaged_run_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    root = made_up_sweep.make_layers(tmp_path)
    (root / "layer-1/run-1/metrics.csv").write_text("no,metrics\n1,2\n")
    (root / "layer-2/run-1/config.yaml").write_text("[")
    found = read_swept(root)["experiments"]
    assert [row["damage"] is None for row in found] == [True, False, True, True]
    assert "metrics.csv" in found[1]["damage"]
    assert (found[1]["curve"], found[1]["reward_end"]) == (None, None)


def test_many_curves_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swept, "MOST_CURVES", 3)
    monkeypatch.setattr(swept, "ALL_POINTS", 30)
    monkeypatch.setattr(swept, "FEWEST_POINTS", 4)
    found = read_swept(made_up_sweep.make_layers(tmp_path, 9))
    assert found["num_curves"] == 9
    kept = [k for k, row in enumerate(found["experiments"]) if row["curve"]]
    assert kept == [0, 4, 8], "the lowest, the middle and the highest reward"
    assert found["experiments"][0]["curve"]["x"] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 20]
    assert all(row["reward_end"] for row in found["experiments"]), "only curves are left out"


def test_without_a_file_there_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no sweep\.json"):
        read_swept(tmp_path)
