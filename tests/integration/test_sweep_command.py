"""The command `sweep`: what it refuses, what it shows, and experiments that end alone."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning import load_vectors
from steer_lightning.cli import main
from steer_lightning.cli.sweep_fit import as_words, class_paths
from tests.integration.conftest import Config
from tests.started import start

LR = "model.optimizer.init_args.lr"


@pytest.fixture
def work(config: Config, tmp_path: Path) -> Path:
    config["model"]["steering"] = {"class_path": "steer_lightning.steering.SteeringVectors"}
    config["trainer"]["default_root_dir"] = "runs"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_words_put_a_key_before_those_below_it() -> None:
    settings = {"model.steering.init_args.layers": [1], "seed_everything": 2, "model.steering": "X"}
    assert as_words({**settings, "a.b": {"c": [float("-inf"), None, True, "x"]}}) == [
        "--seed_everything=2",
        "--model.steering=X",
        '--a.b={"c": [-.inf, null, true, "x"]}',
        "--model.steering.init_args.layers=[1]",
    ]


def test_class_paths_at_any_depth() -> None:
    source = {"class_path": "a.B", "init_args": {"of": [{"class_path": "c.D"}], "n": 1}}
    assert list(class_paths({"train": source, "val": None})) == ["a.B", "c.D"]


SOURCE = """
import torch
from steer_lightning.types import Problem

class Drawn:
    def load(self):
        generator = torch.Generator().manual_seed(torch.initial_seed())
        numbers = torch.randint(100, (8,), generator=generator).tolist()
        return [Problem(question=f"{n}+{k}", answer=str(n + k)) for k, n in enumerate(numbers)]
"""


def test_a_source_of_the_users_own_may_depend_on_the_seed(work: Path) -> None:
    (work / "own_source.py").write_text(SOURCE)
    words = ["--config", "config.yaml", "--data.train=own_source.Drawn", "--data.batch_size=8"]
    words += ["--trainer.max_steps=1", "--grid", "seed_everything=[1,2]", "--grid", f"{LR}=[0.1,1]"]
    done = start("sweep", *words, folder=work).end(120)
    assert done.returncode == 0, done.stderr
    asked = {}
    for run in (work / "runs").glob("*/run-1"):
        table = pq.read_table(run / "rollouts.parquet")
        asked[run.parent.name] = frozenset(table["prompt"].to_pylist())
    assert len(asked) == 4
    assert len(set(asked.values())) == 2, "one set of problems for each seed"


MISTAKES = [
    (["--grid", "seed_everything=[1]", "--grid", "seed_everything=[2]"], "is given twice"),
    (["--grid", f"{LR}=[0.1,1e-1]"], "'1 and 2': are the same"),
    (["--grid", "lr=[1,2]"], "experiment lr=1: lr = '1': there is no such option. Write the whole"),
    (["--grid", "seed_everything=[-1,1]"], "experiment seed_everything=-1: seed_everything = -1"),
    (["--grid", "trainer.default_root_dir=[a,b]"], "is not a setting of an experiment"),
    (["--grid", "seed_everything=[1]", "--each-layer=maybe"], "must be true or false"),
    (["--experiments", "given.yaml", "--experiments", "given.yaml"], "is given twice"),
]
FILES = [
    ("- {name: .., seed_everything: 1}", "must consist of letters"),
    ("- {name: a/b, seed_everything: 1}", "must consist of letters"),
    ("- {seed_everything: 1, seed_everything: 2}", "line 1: names seed_everything twice"),
    ("- - {seed_everything: 1}", "given.yaml, item 1': must be a list of mappings"),
    ("- {1: 2}", "given.yaml, item 1: the key 1 is not text"),
    ("- {name: 1, seed_everything: 1}", 'Put it into quotes: name: "1"'),
    (
        "- {name: a, seed_everything: 0}\n- {name: b, data.batch_size: 4}",
        "experiment b: is the same as experiment a",
    ),
]


@pytest.mark.parametrize(
    ("words", "file", "told"),
    [
        *((words, "", told) for words, told in MISTAKES),
        *((["--experiments", "given.yaml"], file, told) for file, told in FILES),
    ],
)
def test_mistakes_are_explained_before_anything_is_written(
    work: Path,
    words: list[str],
    file: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(work)
    Path("given.yaml").write_text(file)
    before = {*work.rglob("*")}
    assert main(["sweep", "--config", "config.yaml", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert {*work.rglob("*")} == before


def test_grids_of_a_class_and_of_its_arguments_are_combined(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    layers = ["--grid", "model.steering.init_args.layers=[[0],[1]]"]
    classes = ["--grid", "model.steering=[SteeringVectors,LowRankVectors]", "--dry_run"]
    assert main(["sweep", "--config", "config.yaml", *layers, *classes]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"layers={layer}_steering={kind}"
        for layer in (0, 1)
        for kind in ("SteeringVectors", "LowRankVectors")
    ]


def with_few_files() -> None:
    """The command line where a process may have few files open, and may raise that limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, most))
    sys.exit(main())


def with_no_more_files() -> None:
    """The command line where that limit can't be raised."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (210, 210))
    sys.exit(main())


def test_experiments_may_have_more_files_open_than_a_process_at_its_start(work: Path) -> None:
    config = yaml.safe_load((work / "config.yaml").read_text())
    config["trainer"] |= {"max_steps": 1, "callbacks": []}
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    grid = f"seed_everything={list(range(20))}"
    words = ["sweep", "--config", "config.yaml", "--grid", grid]
    done = start(*words, folder=work, run=with_few_files).end(300)
    assert done.returncode == 0, done.stderr
    assert len(list((work / "runs").glob("*/run-1/summary.json"))) == 20


def test_more_experiments_than_files_are_refused_with_the_remedy(work: Path) -> None:
    grid = "seed_everything=[0,1,2,3,4,5,6,7]"
    words = ["sweep", "--config", "config.yaml", "--grid", grid]
    done = start(*words, folder=work, run=with_no_more_files).end(300)
    assert done.returncode == 2, done.stderr
    assert "'8 experiments': can train only 5 at a time here" in done.stderr
    assert "ulimit -n 216" in done.stderr
    assert not (work / "runs").exists()


FAILING = """
- {name: fine, seed_everything: 3}
- {name: diverges, model.optimizer.init_args.lr: .inf}
- {name: raises, model.rewards: [{reward: own_rewards.broken}]}
"""


@pytest.mark.slow
def test_experiments_that_fail_end_alone_and_change_nothing_for_the_others(work: Path) -> None:
    (work / "own_rewards.py").write_text(
        "def broken(completions):\n    raise KeyError('why')\n\nbroken.in_process = True\n"
    )
    (work / "failing.yaml").write_text(FAILING)
    words = ["--config", "config.yaml", "--experiments", "failing.yaml", "--table"]
    done = start("sweep", *words, folder=work).end(300)
    assert done.returncode == 1, done.stderr
    *_, head, fine, second, third, lost, broken, page = done.stdout.splitlines()
    assert page == "sweep: runs/sweep.html"
    assert head.split() == ["experiment", "reward", "mean", "FormatReward", "folder"]
    assert fine.split()[0] == "fine"
    assert fine.endswith("  runs/fine/run-1")
    assert {line.split()[0] for line in (second, third)} == {"diverges", "raises"}
    assert lost.startswith("runs/diverges/run-1: failed (FloatingPointError: ")
    assert broken.startswith("runs/raises/run-1: failed (")
    assert "2 failed\n" in done.stdout, "the table says so before the end"
    assert "KeyError: 'why'" in (work / "runs/raises/run-1/output.txt").read_text()
    assert "FloatingPointError" in (work / "runs/diverges/run-1/output.txt").read_text()
    assert not list((work / "runs").glob("[dr]*/run-1/summary.json"))
    alone = ["--seed_everything=3", "--trainer.default_root_dir=alone"]
    done = start("fit", "--config", "config.yaml", *alone, folder=work).end(300)
    assert done.returncode == 0, done.stderr
    one, two = (load_vectors(work / run).vectors for run in ("runs/fine/run-1", "alone/run-1"))
    assert one.abs().max() > 0.001
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    steps = json.loads((work / "runs/fine/run-1/summary.json").read_text())["num_steps"]
    assert steps == 4


@pytest.mark.slow
def test_what_has_ended_is_counted_and_bars_go_to_stderr(work: Path) -> None:
    config = yaml.safe_load((work / "config.yaml").read_text())
    config["trainer"] |= {"enable_progress_bar": True, "max_steps": 2}
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["sweep", "--config", "config.yaml", "--grid"]
    done = start(*words, "seed_everything=[1]", folder=work).end(300)
    assert done.returncode == 0, done.stderr
    assert "training 1 experiment: 100%|" in done.stderr
    assert "2/2 [" in done.stderr
    assert len(done.stdout.splitlines()) == 3, "the table and the page alone"
    more = start(*words, "seed_everything=[1,2]", folder=work, TQDM_DISABLE="1").end(300)
    told, head, *table = more.stdout.splitlines()
    assert told == "1 of 2 experiments have ended before", "a further seed renames no experiment"
    assert head.startswith("experiment"), more.stdout
    assert {path.name for path in (work / "runs").glob("seed_everything=*/run-*")} == {"run-1"}
    done = start(*words, "seed_everything=[1,2]", folder=work).end(300)
    assert done.stdout == "2 of 2 experiments have ended before\n", table
