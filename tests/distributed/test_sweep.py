"""A sweep of several processes over gloo: same results, failures that end alone, and signals."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from steer_lightning.callbacks.checkpoint_file import load_checkpoint
from tests.distributed.conftest import LIGHTNING, TORCHRUN, Fit
from tests.distributed.test_runs import completions, vectors
from tests.held import wait
from tests.integration.conftest import Config
from tests.integration.test_algorithms import EVERYTHING
from tests.started import all_end, node

pytestmark = pytest.mark.multi_process

LR = "model.optimizer.init_args.lr"
FAILS = {"class_path": "tests.distributed.helpers.FailsOnOne"}
GOOD = {"first": {"seed_everything": 1}, "second": {LR: 0.5}}
BROKEN = {"broken": {"model.rewards": [{"reward": FAILS}]}}

Sweep = Callable[..., Any]


@pytest.fixture
def sweep(fit: Fit, tmp_path: Path) -> Sweep:
    """Runs a sweep of experiments, by name, with several processes."""

    def call(processes: int, experiments: dict[str, Any], *words: str, **how: Any) -> Any:
        rows = [{"name": name, **settings} for name, settings in experiments.items()]
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(rows))
        words = ("--experiments", "sweep.yaml", *words)
        return fit(processes, how.pop("strategy", "auto"), *words, command="sweep", **how)

    return call


def assert_same(run: Path, other: Path, bound: float = 1e-8) -> None:
    assert float(vectors(other).norm()) > 1e-3
    torch.testing.assert_close(vectors(run), vectors(other), rtol=0, atol=bound)
    ours, theirs = completions(run), completions(other)
    assert [row[:-1] for row in ours] == [row[:-1] for row in theirs], "token for token"
    advantages = [row[-1] for row in theirs]
    assert [row[-1] for row in ours] == pytest.approx(advantages, abs=1e-4)  # with a KL in them
    facts, expected = (json.loads((x / "summary.json").read_text()) for x in (run, other))
    for key in ("accuracy_before", "accuracy_after", "num_steps"):
        assert facts[key] == expected[key]


def words_of(settings: dict[str, Any]) -> list[str]:
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


def test_two_processes_train_what_one_trains_and_a_failure_in_one_of_them_ends_alone(
    sweep: Sweep, fit: Fit, tmp_path: Path
) -> None:
    done = sweep(2, {**BROKEN, **GOOD}, "--trainer.default_root_dir=two")
    assert done.statuses == [1, 0], done.stderr
    told = "two/broken/run-1: failed (OtherProcessError: process 1: LookupError: the judge's key"
    assert told in done.stdout
    assert done.stdout.count("sweep: two/sweep.html") == 1, "told once"
    assert done.stdout.count("two/broken/run-1") == 2, "in the table, and with its reason"
    output = (tmp_path / "two/broken/run-1/output.txt").read_text()
    assert "in __call__" in output, "the traceback of the other process"
    assert load_checkpoint(tmp_path / "two/broken/run-1/checkpoints/last.ckpt")["global_step"] == 1
    assert sweep(1, GOOD, "--trainer.default_root_dir=one").succeeded()
    for name in GOOD:
        assert_same(tmp_path / "two" / name / "run-1", tmp_path / "one" / name / "run-1")
    words = words_of(GOOD["second"])
    done = fit(2, "auto", *words, "--trainer.default_root_dir=alone")
    assert done.succeeded(), done.stderr
    assert_same(tmp_path / "two/second/run-1", tmp_path / "alone/run-1")
    assert not list(tmp_path.glob("two/*/run-2")), "one folder an experiment"


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [LIGHTNING, (*TORCHRUN, "--nproc-per-node=2", "-m", "steer_lightning")],
    ids=["lightning", "torchrun"],
)
def test_each_way_of_starting_processes(
    sweep: Sweep, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    done = sweep(2, GOOD, launcher=launcher)
    assert done.succeeded(), done.stderr
    trained = sorted(f"{tmp_path}/runs/{name}/run-1" for name in GOOD)
    assert sorted(word for word in done.stdout.split() if "/run-" in word) == trained
    assert sweep(1, GOOD, "--trainer.default_root_dir=one").succeeded()
    for name in GOOD:
        assert_same(tmp_path / "runs" / name / "run-1", tmp_path / "one" / name / "run-1")
    done = sweep(2, GOOD, launcher=launcher)
    assert done.succeeded(), "what has ended is not trained again"
    assert not list((tmp_path / "runs").glob("*/run-2"))
    done = sweep(2, {**GOOD, "third": {"seed_everything": 2}}, launcher=launcher)
    assert done.succeeded(), done.stderr
    trained = [f"{tmp_path}/runs/third/run-1"]
    assert [word for word in done.stdout.split() if "/run-" in word] == trained


@pytest.mark.slow
def test_each_experiment_is_the_run_of_fit_with_as_many_processes(
    sweep: Sweep, fit: Fit, config: Config, tmp_path: Path
) -> None:
    """With an adaptive optimizer, evaluations, rounds of further prompts and a KL in the reward."""
    config["model"].update({**EVERYTHING, "mask_overlong": False})
    # a third of the groups of this reward have no signal
    config["model"]["rewards"][0]["reward"]["init_args"] = {"pattern": "^[^a-z]*[a-m]"}
    config["model"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}}
    kind = {"class_path": "steer_lightning.steering.SteeringVectors"}
    config["model"]["steering"] = {**kind, "init_args": EVERYTHING["steering"]}
    config["trainer"]["max_steps"] = 4
    experiments: dict[str, Any] = {
        "seed": {"seed_everything": 1},
        "rate": {LR: 0.02, "model.sampling.group_size": 6},
        "layer": {"model.steering.init_args.layers": [1], "data.batch_size": 6},
    }
    done = sweep(2, experiments)
    assert done.succeeded(), done.stderr
    for name, settings in experiments.items():
        root = f"--trainer.default_root_dir=alone/{name}"
        done = fit(2, "auto", *words_of(settings), root)
        assert done.succeeded(), done.stderr
        run, alone = (tmp_path / root / name / "run-1" for root in ("runs", "alone"))
        assert_same(run, alone, bound=1e-6)
        names = {path.name for path in run.iterdir()} - {"output.txt"}
        assert names == {path.name for path in alone.iterdir()}


STOPS = [([0], signal.SIGTERM, 143), ([1], signal.SIGUSR1, 138), ([0, 1], signal.SIGINT, 130)]


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "number", "status"), STOPS)
def test_a_sweep_that_is_stopped_goes_on_bit_for_bit_in_all_processes(
    plain_steps: Config, tmp_path: Path, asked: list[int], number: signal.Signals, status: int
) -> None:
    held = {"class_path": "tests.held.Held", "init_args": {"step": 2}}
    plain_steps["trainer"].update(devices=2, max_steps=7)
    plain_steps["trainer"]["callbacks"].append(held)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain_steps))
    every = [{"name": name, **settings} for name, settings in GOOD.items()]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(every[:1]))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(every))

    def run(experiments: str, is_stopped: bool) -> list[int]:
        if is_stopped:
            (tmp_path / "hold").touch()
        words = ("sweep", "--config", "config.yaml", "--experiments", experiments)
        processes = node(*words, folder=tmp_path, processes=2)
        if is_stopped:
            wait(processes[0].poll, (tmp_path / "held").exists)
            for process in asked:
                processes[process].send_signal(number)
            (tmp_path / "hold").unlink()
            (tmp_path / "held").unlink()
        return [ended.returncode for ended in all_end(processes)]

    def step(run: str) -> Any:
        return load_checkpoint(tmp_path / "runs" / run / "checkpoints/last.ckpt")["global_step"]

    assert run("one.yaml", is_stopped=True) == [status, 0]
    assert step("first/run-1") == 3, "the step under way was ended, and no other begun"
    assert run("both.yaml", is_stopped=True) == [status, 0]
    assert (step("first/run-2"), step("second/run-1")) == (6, 3), "experiments at unlike steps"
    assert run("both.yaml", is_stopped=False) == [0, 0]
    (tmp_path / "runs").rename(tmp_path / "stopped")
    assert run("both.yaml", is_stopped=False) == [0, 0]
    for name, last in (("first", "run-3"), ("second", "run-2")):
        stopped, whole = tmp_path / "stopped" / name / last, tmp_path / "runs" / name / "run-1"
        assert torch.equal(vectors(stopped), vectors(whole))
        assert float(vectors(whole).norm()) > 1e-3


@pytest.mark.slow
def test_a_process_that_dies_ends_the_sweep(sweep: Sweep, config: Config, tmp_path: Path) -> None:
    init = {"process": 1, "step": 1}
    dies = {"class_path": "tests.distributed.helpers.Dies", "init_args": init}
    config["trainer"]["callbacks"].append(dies)
    start = time.monotonic()
    done = sweep(2, GOOD)
    assert time.monotonic() - start < 60
    assert done.statuses == [1, -signal.SIGKILL]
    assert "process 1 ended without giving a reason. Process 0 of 2 stops, too" in done.stderr
    assert load_checkpoint(tmp_path / "runs/first/run-1/checkpoints/last.ckpt")["global_step"] == 1


@pytest.mark.slow
def test_what_one_process_refuses_ends_the_sweep_before_the_base_is_loaded(
    sweep: Sweep, config: Config, tmp_path: Path
) -> None:
    config["trainer"]["callbacks"].append({"class_path": "tests.distributed.helpers.RefusesOnOne"})
    done = sweep(2, GOOD)
    assert done.statuses == [2, 2]
    first, second = done.processes
    assert "error: process 1: experiment first: trainer.callbacks = 'here'" in first.stderr
    assert "error: experiment first: trainer.callbacks = 'here'" in second.stderr
    assert "Traceback" not in done.stderr
    assert "Loading weights" not in done.stderr


@pytest.mark.slow
def test_a_callback_that_waits_for_the_others_at_a_failure_is_not_waited_for(
    sweep: Sweep, config: Config
) -> None:
    keeps = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"save_on_exception": True},  # it has a barrier
    }
    config["trainer"]["callbacks"].append(keeps)
    start = time.monotonic()
    done = sweep(2, {**BROKEN, **GOOD})
    assert time.monotonic() - start < 60
    assert done.statuses == [1, 0], done.stderr
    assert done.stdout.count("failed (OtherProcessError: process 1: LookupError") == 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_its_experiment_in_all(
    sweep: Sweep, config: Config, tmp_path: Path
) -> None:
    config["trainer"]["callbacks"].append(
        {"class_path": "steer_lightning.callbacks.Guard", "init_args": {"max_skipped": 1}}
    )
    nan = {"class_path": "tests.distributed.helpers.NanOnOne"}
    done = sweep(2, {"nan": {"model.loss": nan}, **GOOD})
    assert done.statuses == [1, 0], done.stderr
    assert "runs/nan/run-1: failed (FloatingPointError: loss or gradient not finite" in done.stdout
    assert sweep(1, GOOD, "--trainer.default_root_dir=one").succeeded()
    for name in GOOD:
        assert_same(tmp_path / "runs" / name / "run-1", tmp_path / "one" / name / "run-1")
