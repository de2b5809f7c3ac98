"""What a page says of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from steer_lightning.errors import ConfigError
from steer_lightning.results.report.contents import read_contents, task_of
from tests import made_up_run
from tests.unit.results.report.helpers import contents


def test_accuracy_before_and_after_with_intervals(run: Path) -> None:
    (benchmark,) = contents(run)["benchmarks"]
    assert benchmark["before"] == {"step": 0, "value": 0.2, "low": 0.15, "high": 0.9}
    assert benchmark["after"] == {"step": 40, "value": 0.7, "low": 0.15, "high": 0.9}


def test_arms_belong_to_their_benchmark(run: Path) -> None:
    made_up_run.write_arms(run)
    (benchmark,) = contents(run)["benchmarks"]
    assert benchmark["name"] == "sums"
    assert benchmark["after"]["value"] == 0.7
    assert benchmark["arms"]["x0.5"]["accuracy"] == [[0, 0.2], [40, 0.4]]
    assert benchmark["arms"]["base"]["difference_low"] == [[0, 0.0], [40, -0.6]]
    assert not [name for name in contents(run)["curves"] if "arms" in name]


def test_without_metrics_they_come_from_the_summary(run: Path) -> None:
    (run / "metrics.csv").unlink()
    made_up_run.write_summary(run, interval_after={"sums": [0.6, 0.8]})
    (benchmark,) = contents(run)["benchmarks"]
    assert benchmark["before"] == {"step": 0, "value": 0.2, "low": None, "high": None}
    assert benchmark["after"] == {"step": None, "value": 0.7, "low": 0.6, "high": 0.8}


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    first, second = tmp_path / "runs/run-1", tmp_path / "runs/run-2"
    for folder, steps in ((first, range(1, 26)), (second, range(21, 41))):
        folder.mkdir(parents=True)
        made_up_run.write_metrics(folder, steps, seen=lambda step, top=steps[-1]: top)
        made_up_run.write_config(folder, ckpt_path="runs/run-1/checkpoints/last.ckpt")
    made_up_run.write_config(first)
    made_up_run.write_rollouts(second, range(21, 41))
    (first / "rollouts").mkdir()
    for step in range(1, 26):
        table = made_up_run.rollouts(step, 1, 2, "earlier", "p")
        pq.write_table(table, first / f"rollouts/step_{step:06d}.parquet")
    found = read_contents(second, 40, 1)
    assert found["stages"] == ["run-1", "run-2"]
    curve = found["curves"]["seen"]
    assert curve["x"] == list(range(1, 41))
    assert curve["y"] == [25] * 20 + [40] * 20, "steps 21 to 25 were done again"
    assert [group["step"] for group in found["training"]["groups"]] == list(range(1, 41))
    earlier = [g["completions"][0]["text"] == "earlier" for g in found["training"]["groups"]]
    assert earlier == [True] * 20 + [False] * 20
    assert read_contents(first, 1, 1)["stages"] == ["run-1"]


def test_the_lens_of_the_command_stands_before_that_of_the_run(run: Path) -> None:
    assert contents(run)["lens"]["width"] == 256
    lens = json.loads((run / "lens.json").read_text())
    (run / "lens").mkdir()
    (run / "lens/lens.json").write_text(json.dumps({**lens, "width": 7}))
    assert contents(run)["lens"]["width"] == 7


def test_what_has_a_place_of_its_own_is_no_curve(tmp_path: Path) -> None:
    names = ["lens/norms/layer_3", "lens/stable_rank", "benchmark/a/b/accuracy"]
    made_up_run.write_metrics(tmp_path, [1], **dict.fromkeys(names, lambda step: 0.5))
    found = read_contents(tmp_path, 1, 1)
    assert "lens/stable_rank" in found["curves"]
    assert not {"lens/norms/layer_3", "benchmark/a/b/accuracy"} & set(found["curves"])
    assert [row["name"] for row in found["benchmarks"]] == ["sums", "a/b"]


def test_the_settings_that_matter_by_name(tmp_path: Path) -> None:
    made_up_run.write_metrics(tmp_path, [1])
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}}
    steering = {
        "class_path": "steer_lightning.steering.SteeringVectors",
        "init_args": {"layers": [1]},
    }
    rewards = [
        {"reward": {"class_path": "a.MathReward"}, "weight": 1.0},
        {"reward": "my.brevity", "weight": 0.5},
    ]
    model = {"optimizer": optimizer, "steering": steering, "rewards": rewards, "base": "b"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model, "trainer": None}))
    assert dict(read_contents(tmp_path, 1, 1)["settings"]) == {
        "Base": "b",
        "What is trained": "SteeringVectors",
        "Steered layers": "1",
        "Rewards": "MathReward x 1.0, brevity x 0.5",
        "Optimizer": "AdamW",
        "Learning rate": 0.02,
    }


@pytest.mark.parametrize(
    ("train", "task"),
    [
        ({"class_path": "steer_lightning.data.Arithmetic", "init_args": {}}, "Arithmetic"),
        ({"class_path": "a.Records", "init_args": {"path": "data/my_sums.jsonl.gz"}}, "my_sums"),
        ({"class_path": "a.Records", "init_args": {"hub_name": "openai/gsm8k"}}, "openai/gsm8k"),
        ({"class_path": "a.DeepScaleR", "init_args": {"path": None}}, "DeepScaleR"),
        (None, None),
        (["odd"], "odd"),
    ],
)
def test_the_task_is_what_it_trains_on(train: object, task: str | None) -> None:
    assert task_of({"data": {"train": train}}) == task
    assert task_of({}) is None


def test_the_title_has_the_task_and_the_run(run: Path) -> None:
    train = {"class_path": "a.Records", "init_args": {"path": "sums.csv"}}
    made_up_run.write_config(run, data={"train": train})
    found = contents(run)
    assert found["task"] == "sums"
    assert f"<title>sums, {found['run']}</title>" in (run / "report.html").read_text()
    assert found["clock"]["seconds"][-1] == 120.0, "40 steps of 3 s"


def test_strata_of_an_evaluation(run: Path) -> None:
    assert contents(run)["strata"] == []
    path = run / "evaluation/results.json"
    found = json.loads(path.read_text())
    rows = [{**row, "benchmark": "sums, base 0-25 %"} for row in found["rows"]]
    path.write_text(json.dumps({**found, "strata": rows}))
    assert contents(run)["strata"] == rows
    assert {row["benchmark"] for row in contents(run)["evaluation"]} == {"sums"}
    path.write_text(json.dumps({**found, "strata": [{"benchmark": "sums"}]}))
    with pytest.raises(ConfigError, match="A row lacks arm, metric, value"):
        contents(run)


def test_curves_of_an_evaluation_and_of_one_without(run: Path) -> None:
    assert contents(run)["capability"] == []
    path = run / "evaluation/results.json"
    found = json.loads(path.read_text())
    record = {"benchmark": "sums", "arm": "base", "num_samples": 2, "points": []}
    path.write_text(json.dumps({**found, "capability": [record]}))
    assert contents(run)["capability"] == [record]
    path.write_text(json.dumps({**found, "capability": [{"benchmark": "sums"}]}))
    with pytest.raises(ConfigError, match="A record of capability lacks arm, num_samples, points"):
        contents(run)


def test_refinements_of_an_evaluation_and_of_one_without(run: Path) -> None:
    assert contents(run)["refinements"] == []
    path = run / "evaluation/results.json"
    found = json.loads(path.read_text())
    names = ("benchmark", "arm", "cost", "num_plain", "value", "vote", "best")
    record = dict.fromkeys(names, "sums")
    path.write_text(json.dumps({**found, "refinements": [record]}))
    assert contents(run)["refinements"] == [record]
    path.write_text(json.dumps({**found, "refinements": [{"benchmark": "sums", "arm": "base"}]}))
    with pytest.raises(ConfigError, match="A record of refinements lacks best, cost, num_plain"):
        contents(run)
