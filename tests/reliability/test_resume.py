"""A run that was killed, stopped or damaged goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning.callbacks.checkpoint_file import (
    DamagedCheckpointError,
    checksum,
    load_checkpoint,
    save_checkpoint,
)
from steer_lightning.steering import load_vectors
from tests.held import HOLDS, IS_HELD, wait
from tests.integration.conftest import Config
from tests.reliability.conftest import Figure
from tests.reliability.killed_at import SAVING, STEP, main_killed
from tests.started import Started
from tests.started import start as started

STEPS = 400

Start = Callable[..., Started]


@pytest.fixture
def start(config: Config, tmp_path: Path) -> Start:
    """Starts the command line; the same command every time."""
    config["trainer"]["max_steps"] = STEPS
    config["trainer"]["callbacks"][0]["init_args"]["every_n_steps"] = 50
    config["model"]["schedule"] = {"kind": "cosine", "warmup": 0.3}
    config["model"]["rewards"] += [  # random ones, in the pool's workers and in this process
        {"reward": "tests.reliability.hostile.draws", "weight": 0.1},
        {"reward": {"class_path": "tests.reliability.hostile.DrawsHere"}, "weight": 0.1},
    ]

    def call(root: str, kill_at: str = "", **settings: Any) -> Started:
        config["trainer"].update({"default_root_dir": root, **settings})
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        run = main_killed if kill_at else None
        words = ("fit", "--config", "config.yaml")
        return started(*words, folder=tmp_path, run=run, KILL_AT=kill_at)

    return call


@pytest.fixture
def hold(config: Config, tmp_path: Path) -> Path:
    """While it is there, runs wait before their third step."""
    held = {"class_path": "tests.held.Held", "init_args": {"step": 2}}
    config["trainer"]["callbacks"].append(held)
    path = tmp_path / HOLDS
    path.touch()
    return path


def wait_until_held(process: Started, folder: Path) -> None:
    wait(process.poll, (folder / IS_HELD).exists)


def runs(root: Path) -> list[Path]:
    return sorted(root.glob("run-*"), key=lambda folder: int(folder.name[4:]))


def end(process: Started, status: int = 0) -> str:
    done = process.end(timeout=300)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def state(run: Path) -> str:
    """What the end of a run has come to: vectors, optimizer, schedule, random states."""
    found = load_checkpoint(run / "checkpoints/last.ckpt")
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step")
    return checksum({key: found[key] for key in keys})


def assert_same_end(one: Path, other: Path) -> None:
    name = "steering_vectors.safetensors"
    assert torch.equal(load_vectors(one / name).vectors, load_vectors(other / name).vectors)
    assert state(one) == state(other)


def rollouts(run: Path) -> dict[int, list[dict[str, Any]]]:
    """Completions and rewards of each step of a run, ended or not."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in (*run.glob("rollouts/step_*.parquet"), *run.glob("rollouts.parquet")):
        for row in pq.read_table(path).to_pylist():
            found.setdefault(row["step"], []).append(row)
    return found


def wait_for_steps(root: Path, process: Started, steps: int, before: int) -> None:
    """Until this run, behind `before` others, has written some checkpoints."""

    def found() -> bool:
        newest = runs(root)[-1:] if len(runs(root)) > before else []
        return bool(newest) and len(list((newest[0] / "rollouts").glob("*.parquet"))) >= steps

    wait(process.poll, found)


@pytest.mark.slow
def test_a_run_killed_at_20_points_ends_as_if_it_had_not_been(
    start: Start, tmp_path: Path, figure: Figure
) -> None:
    end(start("whole"))
    chance = random.Random(0)
    kills = 0
    for point in (*SAVING, *STEP):
        count = chance.randint(2, 12) * (30 if point == "completion sampled" else 1)
        end(start("killed", kill_at=f"{point}:{count}"), status=-signal.SIGKILL)
        kills += 1
    for n in range(12):
        before = len(runs(tmp_path / "killed"))
        process = start("killed")
        if n % 3:  # while training, else at any moment, start and end of the process included
            wait_for_steps(tmp_path / "killed", process, 1 + chance.randint(0, 10), before)
            time.sleep(chance.uniform(0, 0.2))
        else:
            time.sleep(chance.uniform(0.5, 8))
        process.kill()  # if it had ended before, it needs more steps
        end(process, status=-signal.SIGKILL)
        kills += 1
    output = end(start("killed"))
    assert "resuming from" in output
    assert_same_end(runs(tmp_path / "killed")[-1], tmp_path / "whole/run-1")
    whole = rollouts(tmp_path / "whole/run-1")
    for folder in runs(tmp_path / "killed"):
        for step, rows in rollouts(folder).items():
            assert rows == whole[step], "sampled and scored again, the same"
    figure("kills", kills)


@pytest.mark.slow
def test_a_run_killed_in_its_last_evaluation_is_brought_to_its_end(
    start: Start, config: Config, tmp_path: Path
) -> None:
    for bound in ({"max_steps": 5}, {"max_steps": -1, "max_epochs": 1}):  # 5 steps an epoch
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        end(start("whole", **bound))
        end(start("killed", kill_at="after renames:5", **bound), status=-signal.SIGKILL)
        assert not (tmp_path / "killed/run-1/summary.json").exists()
        output = end(start("killed", **bound))
        assert "before, " in output, "with the last evaluation"
        assert_same_end_but_checkpoint(tmp_path / "killed/run-2", tmp_path / "whole/run-1")
        assert "resuming" not in end(start("killed", **bound)), "it has ended: this is a new one"


def assert_same_end_but_checkpoint(one: Path, other: Path) -> None:
    name = "steering_vectors.safetensors"
    assert torch.equal(load_vectors(one / name).vectors, load_vectors(other / name).vectors)
    assert (one / "summary.json").exists()


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_saves_and_exits_and_the_same_command_goes_on(
    start: Start, config: Config, hold: Path, tmp_path: Path, name: str
) -> None:
    config["trainer"]["callbacks"].append(
        {
            "class_path": "steer_lightning.callbacks.LastCheckpoint",
            "init_args": {"every_n_steps": 10_000},  # the signal alone saves
        }
    )
    number = getattr(signal, name)
    process = start("stopped", max_steps=6)
    wait_until_held(process, tmp_path)
    process.send_signal(number)
    hold.unlink()
    output = end(process, status=128 + number)
    assert f"{name}: finishing the step and saving" in output
    assert "to resume: repeat the command" in output
    assert "Traceback" not in output
    folder = tmp_path / "stopped/run-1"
    done = load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"]
    assert done == len(list((folder / "rollouts").glob("*.parquet"))) == 3, "the step was finished"
    assert "resuming from stopped/run-1" in end(start("stopped", max_steps=6))
    end(start("whole", max_steps=6))
    name = "steering_vectors.safetensors"
    ours, theirs = (load_vectors(tmp_path / run / name) for run in ("stopped/run-2", "whole/run-1"))
    assert torch.equal(ours.vectors, theirs.vectors)


SIGNALS_ITSELF = """
import os, signal, time
from lightning.pytorch.callbacks import Callback

class SignalsItself(Callback):
    def on_train_start(self, *_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        print("went on")
"""


def test_a_signal_before_the_first_step_ends_the_run_with_its_status(
    config: Config, run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "itself.py").write_text(SIGNALS_ITSELF)
    config["trainer"]["callbacks"].insert(0, {"class_path": "itself.SignalsItself"})
    done = run(config)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "went on" not in done.stdout
    assert not list((tmp_path / "runs").glob("run-*")), "nothing came of it"


SLOW_TO_END = """
import signal, sys, time
from lightning.pytorch.callbacks import Callback

class SlowToEnd(Callback):
    def on_exception(self, trainer, *_):
        print("ending slowly", flush=True)
        time.sleep(1000)
"""


def test_a_second_ctrl_c_exits_at_once(
    start: Start, config: Config, hold: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    config["trainer"]["callbacks"].append({"class_path": "slow.SlowToEnd"})
    process = start("stopped")
    wait_until_held(process, tmp_path)
    process.send_signal(signal.SIGINT)
    wait(process.poll, lambda: "ending slowly" in process.said)
    process.send_signal(signal.SIGINT)
    assert process.end(timeout=20).returncode == 130, "not after 1,000 seconds"


def test_under_slurm_the_job_goes_back_into_the_queue(
    start: Start, hold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    facts = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "steer"}
    facts |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    for key, value in {**facts, "PATH": f"{tmp_path}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(key, value)
    process = start("stopped")
    wait_until_held(process, tmp_path)
    process.send_signal(signal.SIGUSR1)
    hold.unlink()
    end(process, status=128 + signal.SIGUSR1)
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"


# ---- which run goes on


@pytest.mark.slow
def test_a_run_under_way_or_of_other_settings_is_left_alone(
    start: Start, hold: Path, tmp_path: Path
) -> None:
    first = start("runs")
    wait_until_held(first, tmp_path)
    (tmp_path / IS_HELD).unlink()
    second = start("runs")  # the same settings, beside the first
    wait_until_held(second, tmp_path)
    for process in (first, second):
        process.kill()
    told = end(second, status=-signal.SIGKILL)
    assert "resuming" not in told
    assert "run-1 has the same settings and is still running: this is a new run" in told
    end(first, status=-signal.SIGKILL)
    hold.unlink()
    assert "resuming" not in end(start("runs", max_steps=2)), "other settings"


def test_last_starts_a_new_run_where_there_is_none_and_new_does_always(
    config: Config, run: Callable[..., Any], tmp_path: Path
) -> None:
    config["trainer"]["max_steps"] = 2
    assert run(config, "--ckpt_path=last").returncode == 0
    (tmp_path / "runs/run-1/summary.json").unlink()  # as if it had been interrupted
    done = run(config, "--ckpt_path=new")
    assert done.returncode == 0, done.stderr
    assert "resuming" not in done.stdout
    assert load_checkpoint(tmp_path / "runs/run-2/checkpoints/last.ckpt")["global_step"] == 2
    missing = run(config, "--ckpt_path=last", "--trainer.default_root_dir=x", command="test")
    assert missing.returncode == 2
    assert "there is no checkpoint under" in missing.stderr


@pytest.mark.slow
def test_an_interrupted_run_is_found_behind_many_others(
    config: Config, run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run(config).returncode == 0
    (tmp_path / "runs/run-1/summary.json").unlink()  # as if it had been interrupted
    for number in range(2, 40):
        shutil.copytree(tmp_path / "runs/run-1", tmp_path / f"runs/run-{number}")
        (tmp_path / f"runs/run-{number}/config.yaml").write_text("seed_everything: 7\n")
    done = run(config)
    assert "runs/run-1/checkpoints/last.ckpt: same settings" in done.stdout, done.stderr


def test_a_resumed_run_keeps_its_settings(
    config: Config, run: Callable[..., Any], tmp_path: Path
) -> None:
    config["trainer"]["max_steps"] = 2
    assert run(config).returncode == 0
    last = "--ckpt_path=last"
    done = run(config, last, "--model.schedule.warmup=0.5", "--trainer.max_steps=3")
    assert done.returncode == 2
    assert "model.schedule.warmup = 0.5" in done.stderr
    assert "had 0.0" in done.stderr
    reward = config["model"]["rewards"][0]["reward"]["init_args"]
    before, reward["pattern"] = reward["pattern"], "[0-9]"
    done = run(config, last, "--trainer.max_steps=3")
    assert done.returncode == 2
    assert "model.rewards" in done.stderr
    reward["pattern"] = before
    done = run(config, last, "--trainer.max_steps=3")  # a longer run may go on
    assert done.returncode == 0, done.stderr


# ---- damage


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(
    config: Config, run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run(config).returncode == 0
    folder = tmp_path / "runs/run-1"
    (folder / "summary.json").unlink()
    path = folder / "checkpoints/last.ckpt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # one bit
    path.write_bytes(data)
    done = run(config)
    assert done.returncode == 0, done.stderr
    assert "last.ckpt" in done.stderr
    assert "using previous.ckpt of step 3 instead" in done.stderr
    other = tmp_path / "runs/run-2"
    name = "steering_vectors.safetensors"
    assert torch.equal(load_vectors(folder / name).vectors, load_vectors(other / name).vectors)
    (other / "summary.json").unlink()
    assert load_checkpoint(other / "checkpoints/previous.ckpt")["global_step"] == 3
    for name in ("last.ckpt", "previous.ckpt"):
        (other / "checkpoints" / name).write_bytes(b"")
    done = run(config)
    assert done.returncode == 2
    assert "holds no intact checkpoint" in done.stderr
    assert "Set ckpt_path to new" in done.stderr
    assert run(config, "--ckpt_path", str(path)).returncode == 2, "asked for by name: no other"


def test_no_damage_of_a_checkpoint_goes_unnoticed(tmp_path: Path, figure: Figure) -> None:
    path = tmp_path / "any.ckpt"
    content = {
        "state_dict": {"weight": torch.randn(4, 64), "empty": torch.zeros(0)},
        "optimizer_states": [{"step": 7, "rate": 1e-3, "betas": (0.9, 0.999), "kind": "adam"}],
        "half": torch.randn(5).bfloat16(),
        "flags": [True, None, b"bytes"],
    }
    save_checkpoint(content, path)
    whole, expected = path.read_bytes(), checksum(content)
    assert checksum(load_checkpoint(path)) == expected
    chance = random.Random(0)
    noticed = harmless = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert checksum(load_checkpoint(path)) == expected, position
            harmless += 1  # a date of the zip, or padding
        except DamagedCheckpointError:
            noticed += 1
    assert noticed > len(whole) / 4
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError):
            load_checkpoint(path)
    figure("flipped_bits", noticed + harmless)
    figure("flipped_bits_noticed", noticed)


def test_a_checksum_tells_types_and_order_apart() -> None:
    values: list[Any] = [1, 1.0, True, "1", [1], (1,), {"a": 1}, {1: "a"}, None, b"1"]
    values += [torch.tensor(1), torch.tensor(1.0), torch.tensor([1]), torch.tensor([[1]])]
    values += [[1, [2]], [[1], 2], {"a": 1, "b": 2}, {"b": 2, "a": 1}, [], {}]
    assert len({checksum(value) for value in values}) == len(values)
