"""A sweep by the command line: each experiment is the run that `fit` makes."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning import load_vectors
from steer_lightning.cli import main
from tests.held import wait
from tests.integration.conftest import Config, add_arms
from tests.started import start

LR = "model.optimizer.init_args.lr"
EXPERIMENTS = """
- {name: seed, seed_everything: 1}
- {name: rate, model.optimizer.init_args.lr: 0.01, model.sampling.group_size: 6}
- {name: layer, model.steering.init_args.layers: [1], data.batch_size: 3}
- name: reward
  model.rewards:
  - reward: {class_path: steer_lightning.rewards.FormatReward, init_args: {pattern: "[n-z]"}}
"""


CREWS = pytest.mark.parametrize("threads", ["1", "2"], ids=["one crew", "two crews"])


@pytest.fixture
def work(config: Config, tmp_path: Path) -> Path:
    config["model"]["steering"] = {"class_path": "steer_lightning.steering.SteeringVectors"}
    config["trainer"]["default_root_dir"] = "runs"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "sweep.yaml").write_text(EXPERIMENTS)
    return tmp_path


def sweep(folder: Path, *words: str, status: int = 0, threads: str = "1") -> str:
    words = ("sweep", "--config", "config.yaml", *words)
    done = start(*words, folder=folder, OMP_NUM_THREADS=threads).end(300)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def recorded(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "runs/sweep.json").read_text())[
        "experiments"
    ]
    return found


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith(("speed", "time"))} for row in found]


@CREWS
def test_experiments_are_what_fit_makes_of_their_settings(work: Path, threads: str) -> None:
    sweep(work, "--experiments", "sweep.yaml", threads=threads)
    for experiment in yaml.safe_load(EXPERIMENTS):
        name = experiment.pop("name")
        words = [f"--{key}={json.dumps(value)}" for key, value in experiment.items()]
        root = f"--trainer.default_root_dir=alone/{name}"
        done = start("fit", "--config", "config.yaml", *words, root, folder=work).end(300)
        assert done.returncode == 0, done.stderr
        one, two = work / "runs" / name / "run-1", work / "alone" / name / "run-1"
        lines = (one / "output.txt").read_text().splitlines()
        assert {"data.val:", "training"} <= {line.partition(" ")[0] for line in lines}
        names = {path.name for path in one.iterdir()} - {"output.txt"}
        assert names == {path.name for path in two.iterdir()}
        texts = [pq.read_table(run / "rollouts.parquet")["completion"] for run in (one, two)]
        assert texts[0].equals(texts[1]), "token for token"
        torch.testing.assert_close(
            load_vectors(one).vectors, load_vectors(two).vectors, rtol=0, atol=1e-6
        )
        assert [row.keys() for row in rows(one)] == [row.keys() for row in rows(two)]
        summaries = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
        assert summaries[0]["accuracy_after"] == summaries[1]["accuracy_after"]
    listed = recorded(work)
    assert [one["status"] for one in listed] == ["ended"] * 4
    assert all((work / "runs" / one["run"] / "summary.json").exists() for one in listed)
    assert [one["reward_end"] for one in listed] == pytest.approx(
        [
            sum(float(row["reward/mean"]) for row in rows(work / "runs" / one["run"])[-4:]) / 4
            for one in listed
        ],
        rel=1e-5,
    ), "4 steps, fewer than 5"
    assert (work / "runs/sweep.html").exists()
    before = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*")}
    sweep(work, "--experiments", "sweep.yaml")
    after = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*")}
    assert {path for path in after if after[path] != before.get(path)} <= {
        *(path.parent for path in after if path.name == "run-1"),
    }, "what has ended is not trained again"
    (work / "more.yaml").write_text(EXPERIMENTS + f"- {{name: late, {LR}: 0.02}}\n")
    sweep(work, "--experiments", "more.yaml")
    assert (work / "runs/late/run-1/summary.json").exists()
    names = [row["name"] for row in yaml.safe_load(EXPERIMENTS)]
    assert [one["name"] for one in recorded(work)] == [*names, "late"]
    assert not list((work / "runs").glob("*/run-2"))


def test_arms_are_those_of_a_single_run(work: Path) -> None:
    """An arm's flight is steered by no vectors of another experiment."""
    config = yaml.safe_load((work / "config.yaml").read_text())
    add_arms(config)
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    sweep(work, "--grid", f"{LR}=[0.05,0.4]")
    for rate in ("0.05", "0.4"):
        words = [f"--{LR}={rate}", f"--trainer.default_root_dir=alone/{rate}"]
        done = start("fit", "--config", "config.yaml", *words, folder=work).end(300)
        assert done.returncode == 0, done.stderr
        runs = (work / f"runs/lr={rate}/run-1", work / f"alone/{rate}/run-1")
        one, two = (json.loads((run / "summary.json").read_text())["arms"] for run in runs)
        assert one == two
        assert len(one["held_out"]) == 5
        assert len({json.dumps(figures) for figures in one["held_out"].values()}) > 2
        texts = [pq.read_table(run / "rollouts.parquet")["completion"] for run in runs]
        assert texts[0].equals(texts[1])


def test_generate_engine_gives_the_single_run(work: Path) -> None:
    engine = "--model.engine=steer_lightning.rollout.GenerateEngine"
    sweep(work, "--grid", f"{LR}=[0.05,0.4]", engine)
    words = [f"--{LR}=0.4", engine, "--trainer.default_root_dir=alone"]
    done = start("fit", "--config", "config.yaml", *words, folder=work).end(300)
    assert done.returncode == 0, done.stderr
    runs = (work / "runs/lr=0.4/run-1", work / "alone/run-1")
    texts = [pq.read_table(run / "rollouts.parquet")["completion"] for run in runs]
    assert texts[0].equals(texts[1])
    one, two = (load_vectors(run).vectors for run in runs)
    assert one.abs().max() > 0.01
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_rewards_that_draw_random_numbers_draw_those_of_a_single_run(work: Path) -> None:
    (work / "own_rewards.py").write_text(
        "import random\n\ndef drawn(completions):\n"
        "    return [random.random() for _ in completions]\n\ndrawn.in_process = True\n"
    )
    own = '--model.rewards=[{"reward": "own_rewards.drawn"}]'
    sweep(work, "--grid", "seed_everything=[0,1]", own)
    for seed in (0, 1):
        words = [f"--seed_everything={seed}", own, f"--trainer.default_root_dir=alone/{seed}"]
        done = start("fit", "--config", "config.yaml", *words, folder=work).end(300)
        assert done.returncode == 0, done.stderr
        runs = (work / f"runs/seed_everything={seed}/run-1", work / f"alone/{seed}/run-1")
        one, two = ([row["reward/mean"] for row in rows(run)] for run in runs)
        assert one == two
        assert float(one[-1]) > 0


def test_dry_run_lists_and_writes_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    grid = ["--grid", f"{LR}=[0.01,0.02]", "--grid", "seed_everything=[0,1]", "--dry_run"]
    assert main(["sweep", "--config", "config.yaml", *grid]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"lr={rate}_seed_everything={seed}" for rate in (0.01, 0.02) for seed in (0, 1)
    ]
    assert not (work / "runs").exists()


MISTAKES = [
    ([], "sweep: needs exactly one of --grid, --experiments and --each-layer"),
    (["--grid", f"{LR}=[]"], "has no values"),
    (["--grid", f"{LR}=0.1"], "must be KEY=[VALUE,VALUE,...]"),
    (["--grid", f"{LR}=[1,1.0]"], "'1 and 2': are the same"),
    (["--grid", "model.sampling.group_size=[4,1]"], "experiment group_size=1: model.sampling.grou"),
    (["--grid", "model.optimzer=[1,2]"], "experiment optimzer=1: model.optimzer"),
    (["--grid", f"{LR}=[0.1,fast]"], "experiment lr=fast: model.optimizer.init_args.lr"),
    (
        ["--grid", "trainer.max_steps=[3,4]"],
        "experiment max_steps=4: trainer.max_steps = 4: experiment max_steps=3 has 3. All",
    ),
    (
        ["--experiments", "callbacks.yaml"],
        "experiment b: trainer.callbacks.1.init_args.every_n_steps = 5: experiment a has 10. All",
    ),
    (
        ["--experiments", "fewer.yaml"],
        "experiment b: trainer.callbacks.1.class_path = 'no such setting': experiment a has 'steer",
    ),
    (["--grid", "model.steering.init_args.layers=[[0],[7]]"], "experiment layers=7: model.steerin"),
    (
        ["--grid", "model.steering=[LoRA,READ]"],
        "experiment steering=LoRA: model.steering = ",
    ),
    (
        ["--grid", "seed_everything=[0,1]", "--trainer.devices=2", "--trainer.strategy=fsdp2"],
        "trainer.strategy = 'SteeringFSDP2': can't be used in a sweep",
    ),
    (["--experiments", "none.yaml"], "experiments = 'none.yaml': there is no such file"),
]


CALLBACKS = """
- name: a
  trainer.callbacks: [GracefulStop, {class_path: RolloutTable, init_args: {every_n_steps: 10}}]
- name: b
  trainer.callbacks: [GracefulStop, {class_path: RolloutTable, init_args: {every_n_steps: 5}}]
"""
FEWER = """
- {name: a, trainer.callbacks: [GracefulStop, RolloutTable]}
- {name: b, trainer.callbacks: [GracefulStop]}
"""


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[told[:30] for _, told in MISTAKES])
def test_mistakes_are_named_before_anything_is_written(
    work: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(work)
    Path("callbacks.yaml").write_text(CALLBACKS)
    Path("fewer.yaml").write_text(FEWER)
    assert main(["sweep", "--config", "config.yaml", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (work / "runs").exists()


def test_a_file_of_another_tool_is_not_overwritten(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    (work / "runs").mkdir()
    (work / "runs/sweep.json").write_text('{"method": "random"}')
    words = ["--config", "config.yaml", "--grid", "seed_everything=[0,1]"]
    for more in (["--dry_run"], []):
        assert main(["sweep", *words, *more]) == 2
        told = "sweep = 'runs/sweep.json': is damaged. It lacks `format`"
        assert told in capsys.readouterr().err
        assert [path.name for path in (work / "runs").iterdir()] == ["sweep.json"]
    assert (work / "runs/sweep.json").read_text() == '{"method": "random"}'


FAILING = """
- {name: fine, seed_everything: 0}
- name: broken
  model.rewards: [{reward: own_rewards.broken}]
- name: odd
  model.rewards: [{reward: own_rewards.odd}]
"""

OWN_REWARDS = """
def broken(completions):
    raise KeyError('why')

def odd(completions):
    (completion,) = completions
    if completion.text < "n":
        raise ValueError("too early")
    return [1.0]

broken.in_process = True
"""


def test_an_experiment_that_fails_ends_alone_and_is_named(work: Path) -> None:
    (work / "own_rewards.py").write_text(OWN_REWARDS)
    (work / "failing.yaml").write_text(FAILING)
    told = sweep(work, "--experiments", "failing.yaml", status=1)
    assert "runs/fine/run-1\n" in told
    assert "runs/broken/run-1: failed (" in told
    fine, broken, odd = recorded(work)
    assert (fine["status"], fine["reason"]) == ("ended", None)
    assert broken["status"] == "failed"
    assert "KeyError: 'why'" in broken["reason"]
    assert odd["status"] == "ended"
    outputs = {x: (work / f"runs/{x}/run-1/output.txt").read_text() for x in ("broken", "odd")}
    assert "KeyError: 'why'" in outputs["broken"]
    assert "\n[odd] reward odd crashed on " in told, "warnings say whose they are"
    assert "\nreward odd crashed on " in outputs["odd"]
    assert "ValueError: too early" in outputs["odd"]
    assert json.loads((work / "runs/fine/run-1/summary.json").read_text())["num_steps"] == 4


@CREWS
def test_a_sweep_that_is_stopped_goes_on_bit_for_bit(
    work: Path, config: Config, threads: str
) -> None:
    held = {"class_path": "tests.held.Held", "init_args": {"step": 2}}
    config["trainer"]["callbacks"].append(held)
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    grid = ["--grid", "seed_everything=[0,1]"]
    (work / "hold").touch()
    words = ("sweep", "--config", "config.yaml", *grid)
    stopped = start(*words, folder=work, OMP_NUM_THREADS=threads)
    wait(stopped.poll, (work / "held").exists)
    stopped.send_signal(signal.SIGTERM)
    (work / "hold").unlink()
    done = stopped.end(300)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout.count("saved; the same command goes on with it") == 2
    assert not list((work / "runs").rglob("summary.json"))
    for one in recorded(work):
        assert (one["status"], one["reason"]) == ("stopped", None)
        assert one["steps"] == int(rows(work / "runs" / one["run"])[-1]["step"]) < 4
    assert "sweep of 2 experiments" in (work / "runs/sweep.html").read_text()
    sweep(work, *grid, threads=threads)
    runs = [one["run"] for one in recorded(work)]
    assert runs == [f"seed_everything={seed}/run-2" for seed in (0, 1)]
    (work / "runs").rename(work / "stopped")
    sweep(work, *grid, threads=threads)
    for seed in (0, 1):
        ends = [
            max((work / root / f"seed_everything={seed}").glob("run-*/summary.json")).parent
            for root in ("stopped", "runs")
        ]
        assert [end.name for end in ends] == ["run-2", "run-1"], "as fit goes on"
        assert torch.equal(*(load_vectors(end).vectors for end in ends))
