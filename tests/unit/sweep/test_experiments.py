"""Grids and files become experiments, whose names say what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.sweep.experiments import each_layer, from_file, from_grid, named, parse_axis

LR = "model.optimizer.init_args.lr"


def test_a_grid_is_every_combination() -> None:
    found = from_grid({LR: [0.005, 0.02], "seed_everything": [0, 1, 2]})
    assert [experiment.name for experiment in found] == [
        f"lr={rate}_seed_everything={seed}" for rate in (0.005, 0.02) for seed in (0, 1, 2)
    ]
    assert found[4].settings == {LR: 0.02, "seed_everything": 1}


def test_names_of_a_grid_stay_when_it_gets_further_values() -> None:
    rates, seeds = [0.02], [1]
    names = {experiment.name for experiment in from_grid({LR: rates, "seed_everything": seeds})}
    assert names == {"lr=0.02_seed_everything=1"}, "keys with a single value are part of a name"
    for more in ({LR: [0.02, 0.1]}, {"seed_everything": [1, 2]}, {LR: [0.1, 0.02, 0.5]}):
        found = from_grid({LR: rates, "seed_everything": seeds, **more})
        assert names < {experiment.name for experiment in found}
    assert [one.name for one in from_grid({"seed_everything": [1]})] == ["seed_everything=1"]
    twins = from_grid({"model.sampling.top_p": [1], "model.eval_sampling.top_p": [0.9]})
    assert [one.name for one in twins] == ["sampling.top_p=1_eval_sampling.top_p=0.9"]


def test_an_axis_is_a_key_and_a_list() -> None:
    assert parse_axis(f"{LR}=[1e-3, 0.02]")[0] == LR
    assert parse_axis("a.b=[[1, 2], all]") == ("a.b", [[1, 2], "all"])
    for wrong in (LR, f"{LR}=0.02", "=[1]", f"{LR}=[1", f"{LR}={{a: 1}}"):
        with pytest.raises(ConfigError, match=r"grid = .*KEY=\[VALUE"):
            parse_axis(wrong)


def test_grids_that_make_nothing_or_too_much_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"grid seed_everything = '\[\]': has no values"):
        from_grid({LR: [1], "seed_everything": []})
    with pytest.raises(ConfigError, match=r"'40 x 26': makes 1040 experiments, more than 1000"):
        from_grid({LR: [*range(40)], "seed_everything": [*range(26)]})
    with pytest.raises(ConfigError, match="'1 and 3': are the same"):
        from_grid({LR: [1, 2, 1]})
    with pytest.raises(ConfigError, match="'1 and 2': are the same"):
        from_grid(dict([parse_axis(f"{LR}=[0.1,1e-1]")]))


def test_names_say_what_differs() -> None:
    rows = [
        {"model.advantage": "steer_lightning.advantages.GRPO", "model.sampling.top_p": 1.0},
        {"model.advantage": {"class_path": "my.RLOO"}, "model.eval_sampling.top_p": 0.9},
        {"model.steering.init_args.layers": [1, 2], "model.sampling.top_p": 1.0},
        {"model.steering.init_args.layers": "2-3", "model.base": "/models/a b"},
    ]
    assert [experiment.name for experiment in named([(None, row) for row in rows])] == [
        "advantage=GRPO_sampling.top_p=1.0",
        "advantage=RLOO_eval_sampling.top_p=0.9",
        "sampling.top_p=1.0_layers=1+2",
        "layers=2-3_base=models-a-b",
    ]
    for name in ("a/b", "..", "", "a b", "run-1", "sweep.json", "x" * 201):
        if name:
            with pytest.raises(ConfigError, match=r"becomes a folder|itself gives"):
                named([(name, {"seed_everything": 1})])
    signs = from_grid({"model.scale": [-1, 1, "-1x"]})
    assert [experiment.name for experiment in signs] == ["scale=-1", "scale=1", "scale=1x"]
    with pytest.raises(ConfigError, match="'x': is the name of 2 experiments"):
        named([("x", {"seed_everything": 1}), ("x", {"seed_everything": 2})])


def test_a_file_is_a_list_of_mappings(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"- {{name: slow, {LR}: 0.005}}\n- {{{LR}: 0.02}}\n")
    one, two = from_file(path)
    assert (one.name, one.settings) == ("slow", {LR: 0.005})
    assert two.name == "lr=0.02"
    for wrong in ("a: 1", "[]", "- 1", "- {}", "- {1: 2}", "- {name: 3, a: 1}", "[", "- {name: a}"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=r"experiments.*sweep\.yaml"):
            from_file(path)
    with pytest.raises(ConfigError, match="there is no such file"):
        from_file(tmp_path / "none.yaml")


def test_each_layer_is_an_experiment() -> None:
    found = each_layer(12)
    assert [experiment.name for experiment in found][:11:10] == ["layer-00", "layer-10"]
    assert found[3].settings == {"model.steering.init_args.layers": [3]}
