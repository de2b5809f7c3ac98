"""Real processes over gloo: the same result for any number, one run's folder, and no hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning.checkpoint_file import checksum, load_checkpoint
from steer_lightning.steering import load_vectors
from tests.integration.conftest import Config
from tests.integration.test_algorithms import EVERYTHING

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.multi_process

Run = Callable[..., "subprocess.CompletedProcess[str]"]
BY_LAYER = {
    "class_path": "steer_lightning.strategy.SteeringFSDP2",
    "init_args": {"gather_for_rollouts": False},
}
PAIRS = {
    "class_path": "steer_lightning.strategy.SteeringFSDP2",
    "init_args": {"shard_size": 2},
}
ALWAYS_BY_LAYER = {
    "class_path": "steer_lightning.strategy.SteeringFSDP",
    "init_args": {"sharding_strategy": "FULL_SHARD"},
}


@pytest.fixture
def fit(config: Config, tmp_path: Path) -> Run:
    """Runs the command line; plain steps on the gradient, so that the vectors are its sum."""
    config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    config["model"]["gradient_clip"] = {
        "class_path": "steer_lightning.optim.NormClip",
        "init_args": {"max_norm": 1e6},
    }
    config["model"]["tokens_per_micro_batch"] = 24  # processes have unequal numbers of passes
    config["trainer"].update(max_steps=2)

    def call(
        processes: int, strategy: Any = "auto", *words: str, launcher: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        config["trainer"].update(devices=processes, strategy=strategy)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = [*(launcher or (sys.executable,)), "-m", "steer_lightning", "fit"]
        return subprocess.run(
            [*command, "--config", "config.yaml", *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def vectors(run: Path) -> torch.Tensor:
    return load_vectors(run / "steering_vectors.safetensors").vectors


def completions(run: Path) -> list[tuple[Any, ...]]:
    rows = pq.read_table(run / "rollouts.parquet").to_pylist()
    keys = ("step", "prompt_id", "sample", "completion", "reward", "advantage")
    return sorted(tuple(row[key] for key in keys) for row in rows)


def test_the_result_does_not_depend_on_the_number_of_processes(
    fit: Run, config: Config, tmp_path: Path
) -> None:
    tries = [(1, "auto"), (2, "auto"), (2, "fsdp2"), (2, BY_LAYER), (2, "fsdp")]
    tries += [(2, ALWAYS_BY_LAYER), (4, "ddp"), (4, PAIRS)]
    for number, (processes, strategy) in enumerate(tries, 1):
        done = fit(processes, strategy, "--ckpt_path=new")
        assert done.returncode == 0, f"{strategy}: {done.stderr}"
        assert len(list((tmp_path / "runs").iterdir())) == number, "one folder a run"
        run, first = tmp_path / f"runs/run-{number}", tmp_path / "runs/run-1"
        torch.testing.assert_close(vectors(run), vectors(first), rtol=0, atol=1e-8)
        assert completions(run) == completions(first)
        facts, expected = (json.loads((x / "summary.json").read_text()) for x in (run, first))
        for key in ("accuracy_before", "accuracy_after", "base_sha256", "num_steps"):
            assert facts[key] == expected[key], (strategy, key)
        assert ("can't be packed" in done.stderr) == (strategy in ("fsdp", ALWAYS_BY_LAYER))
    assert float(vectors(first).norm()) > 1e-3


def test_a_run_of_4_processes_goes_on_with_1_and_with_2(fit: Run, tmp_path: Path) -> None:
    assert fit(4, "fsdp2", "--trainer.max_steps=3").returncode == 0
    saved = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    assert saved.stat().st_size < 100_000
    for number, processes in ((2, 1), (3, 2)):
        done = fit(processes, "auto", "--trainer.max_steps=5", f"--ckpt_path={saved}")
        assert done.returncode == 0, done.stderr
        kept = tmp_path / f"runs/run-{number}/checkpoints/previous.ckpt"
        assert load_checkpoint(kept)["global_step"] == 4
    assert fit(1, "auto", "--trainer.max_steps=5", "--ckpt_path=new").returncode == 0
    for number in (2, 3):
        found, whole = vectors(tmp_path / f"runs/run-{number}"), vectors(tmp_path / "runs/run-4")
        torch.testing.assert_close(found, whole, rtol=0, atol=3e-6)


def test_what_is_loaded_is_what_was_saved(fit: Run, tmp_path: Path) -> None:
    assert fit(2, "fsdp2").returncode == 0
    saved = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    (tmp_path / "runs/run-1/summary.json").unlink()  # interrupted behind its last step
    done = fit(1, "auto", f"--ckpt_path={saved}")
    assert done.returncode == 0, done.stderr
    ours, theirs = load_checkpoint(tmp_path / "runs/run-2/checkpoints/last.ckpt"), saved
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert checksum(ours[key]) == checksum(load_checkpoint(theirs)[key]), key


def test_torchrun_starts_one_run(fit: Run, tmp_path: Path) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    done = fit(2, "fsdp2", launcher=(*launcher, "--nproc-per-node=2"))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run-1"]
    assert done.stdout.count("steps in") == 1


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_dies_stops_the_others(
    fit: Run, config: Config, tmp_path: Path, process: int
) -> None:
    init = {"process": process, "step": 1}
    dies = {"class_path": "tests.distributed.helpers.Dies", "init_args": init}
    config["trainer"]["callbacks"].append(dies)
    start = time.monotonic()
    done = fit(2, "fsdp2")
    assert time.monotonic() - start < 60
    assert done.returncode != 0
    assert f"process {process} ended without a word" in done.stderr
    assert load_checkpoint(tmp_path / "runs/run-1/checkpoints/last.ckpt")["global_step"] == 1
    config["trainer"]["callbacks"].pop()
    assert fit(1, "auto", "--ckpt_path=last").returncode == 0, "the last checkpoint is usable"


def test_a_signal_to_one_process_stops_all_behind_the_same_step(
    fit: Run, config: Config, tmp_path: Path
) -> None:
    config["trainer"]["max_steps"] = 4
    init = {"process": 1, "step": 1, "name": "SIGTERM"}
    asked = {"class_path": "tests.distributed.helpers.IsAskedToStop", "init_args": init}
    config["trainer"]["callbacks"].append(asked)
    done = fit(2, "fsdp2")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    checkpoint = load_checkpoint(tmp_path / "runs/run-1/checkpoints/last.ckpt")
    assert checkpoint["global_step"] == 2, "the step under way was ended, and no other begun"
    config["trainer"]["callbacks"].pop()
    for words in (("--ckpt_path=last",), ("--ckpt_path=new",)):
        done = fit(2, "fsdp2", *words)
        assert done.returncode == 0, done.stderr
    went_on, never_stopped = (vectors(tmp_path / f"runs/run-{k}") for k in (2, 3))
    assert torch.equal(went_on, never_stopped)


def test_generate_is_refused_where_it_would_read_shards(fit: Run, config: Config) -> None:
    config["model"]["engine"] = {"class_path": "steer_lightning.rollout.GenerateEngine"}
    done = fit(2, "fsdp")
    assert done.returncode == 2
    assert "model.engine = 'GenerateEngine'" in done.stderr
    assert "strategy: fsdp2" in done.stderr


def test_a_reward_that_fails_on_one_process_is_reported_from_all(fit: Run, config: Config) -> None:
    config["model"]["rewards"] = [
        {"reward": {"class_path": "tests.distributed.helpers.FailsOnOne"}}
    ]
    done = fit(2)
    assert done.returncode != 0
    assert "LookupError: the judge's key is missing here" in done.stderr, "from process 1"
    assert "process 1: LookupError: the judge's key is missing here" in done.stderr
    assert "So process 0 of 2 stops, too" in done.stderr


def test_too_few_prompts_and_foreign_strategies_are_refused(fit: Run, config: Config) -> None:
    config["data"]["batch_size"] = 1
    done = fit(2)
    assert done.returncode == 2
    assert "data.batch_size = 1: must be at least the number of processes, 2" in done.stderr
    done = fit(1, "deepspeed")
    assert done.returncode == 2
    config["data"]["batch_size"] = 4
    done = fit(2, {"class_path": "lightning.pytorch.strategies.DDPStrategy"})
    assert done.returncode == 2
    assert "trainer.strategy = 'DDPStrategy'" in done.stderr


def test_the_gradient_on_the_wire_does_not_grow_with_the_base(tmp_path: Path) -> None:
    path = tmp_path / "wire.json"
    command = [sys.executable, str(ROOT / "benchmarks/wire.py"), f"--json={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = json.loads(path.read_text())["counts"]
    for strategy, sizes in counts.items():
        small, large = sizes["base"], sizes["8 x"]
        calls = [key.split(": ")[1] for key in large]
        assert not [call for call in calls if "scatter" in call], "no gradient of the base"
        paced = small["rest: allreduce"][0] == 2  # one number says that all rollouts have ended
        assert small["rest: allreduce"] == [1 + paced, 4 * 256 * 4 + 8 * paced], strategy
        assert large["rest: allreduce"] == small["rest: allreduce"]
        assert large["rest: allgather"][1] < 1e6
    gathered = counts["fsdp2"]["base"]
    assert gathered["rest: allgather_base"][0] == 4 + 1, "each layer and the rest once, no tokens"
    assert not [key for key in gathered if key.startswith("rollout")]


@pytest.mark.slow
def test_no_algorithm_depends_on_the_number_of_processes(
    fit: Run, config: Config, tmp_path: Path
) -> None:
    config["model"].update(EVERYTHING)
    config["model"]["rewards"][0]["reward"]["init_args"] = {"pattern": "^[^a-z]*[a-m]"}
    config["data"]["order"] = {"class_path": "steer_lightning.data.ByPassRate"}
    config["trainer"]["callbacks"] = []
    for number, (processes, strategy) in enumerate([(1, "auto"), (2, "ddp"), (2, "fsdp2")], 1):
        done = fit(processes, strategy, "--ckpt_path=new")
        assert done.returncode == 0, f"{strategy}: {done.stderr}"
        run, first = tmp_path / f"runs/run-{number}", tmp_path / "runs/run-1"
        torch.testing.assert_close(vectors(run), vectors(first), rtol=0, atol=1e-5)
        assert completions(run) == completions(first)
    assert len(completions(first)) > 2 * 16, "batches were refilled"
    config["model"].update(
        advantage={"class_path": "steer_lightning.advantages.ReinforcePlusPlus"},
        dynamic_sampling=None,
    )
    for processes in (1, 2):
        assert fit(processes, "auto", "--ckpt_path=new").returncode == 0
    assert completions(tmp_path / "runs/run-4") == completions(tmp_path / "runs/run-5")
