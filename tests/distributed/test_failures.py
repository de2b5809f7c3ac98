"""What ends one process ends all, with its message, and what was saved is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from steer_lightning.callbacks.checkpoint_file import load_checkpoint
from steer_lightning.steering import load_vectors
from tests.distributed.conftest import LIGHTNING, Fit
from tests.integration.conftest import Config
from tests.started import all_end, node

pytestmark = pytest.mark.multi_process

FAILS = {"class_path": "tests.distributed.helpers.FailsOnOne"}


@pytest.mark.parametrize("process", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_that_dies_stops_the_others(
    fit: Fit, config: Config, tmp_path: Path, process: int
) -> None:
    init = {"process": process, "step": 1}
    dies = {"class_path": "tests.distributed.helpers.Dies", "init_args": init}
    config["trainer"]["callbacks"].append(dies)
    start = time.monotonic()
    done = fit(4, "fsdp2")
    assert time.monotonic() - start < 60
    for number, (status, ended) in enumerate(zip(done.statuses, done.processes, strict=True)):
        if number == process:
            assert status == -signal.SIGKILL
            continue
        assert status == 1
        told = f"process {process} ended without giving a reason. Process {number} of 4 stops, too"
        assert told in ended.stderr
    assert load_checkpoint(tmp_path / "runs/run-1/checkpoints/last.ckpt")["global_step"] == 1
    config["trainer"]["callbacks"].pop()
    done = fit(1, "auto", "--ckpt_path=last")
    assert done.succeeded(), f"the last checkpoint is usable: {done.stderr}"


def test_lightnings_launcher_ends_with_its_processes(fit: Fit, config: Config) -> None:
    init = {"process": 1, "step": 1}
    dies = {"class_path": "tests.distributed.helpers.Dies", "init_args": init}
    config["trainer"]["callbacks"].append(dies)
    start = time.monotonic()
    done = fit(2, launcher=LIGHTNING)
    assert time.monotonic() - start < 60
    assert done.statuses != [0]
    assert "process 1 ended without giving a reason" in done.stderr


def test_a_process_that_never_connects_is_not_waited_for(config: Config, tmp_path: Path) -> None:
    config["trainer"].update(devices=2)
    config["trainer"]["strategy"] = {
        "class_path": "steer_lightning.strategy.SteeringDDP",
        "init_args": {"connect_minutes": 0.02},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    first, second = node("fit", "--config", "config.yaml", folder=tmp_path, processes=2)
    second.send_signal(signal.SIGKILL)  # as if it had failed while it read its configuration
    done, _ = all_end([first, second], timeout=60)
    assert done.returncode == 1
    assert "after 0.02 minutes not all processes have connected" in done.stderr
    assert "trainer.strategy.init_args.connect_minutes" in done.stderr


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_behind_the_same_step(
    fit: Fit, config: Config, tmp_path: Path
) -> None:
    config["trainer"]["max_steps"] = 4
    init = {"process": 1, "step": 1, "name": "SIGTERM"}
    asked = {"class_path": "tests.distributed.helpers.IsAskedToStop", "init_args": init}
    config["trainer"]["callbacks"].append(asked)
    done = fit(2, "fsdp2")
    assert done.statuses == [128 + signal.SIGTERM, 0], done.stderr
    checkpoint = load_checkpoint(tmp_path / "runs/run-1/checkpoints/last.ckpt")
    assert checkpoint["global_step"] == 2, "the step under way was ended, and no other begun"
    config["trainer"]["callbacks"].pop()
    for words in (("--ckpt_path=last",), ("--ckpt_path=new",)):
        done = fit(2, "fsdp2", *words)
        assert done.succeeded(), done.stderr
    went_on, never_stopped = (
        load_vectors(tmp_path / f"runs/run-{k}/steering_vectors.safetensors") for k in (2, 3)
    )
    assert torch.equal(went_on.vectors, never_stopped.vectors)


def test_a_signal_to_one_process_before_the_first_step_ends_all_at_once(
    fit: Fit, config: Config, tmp_path: Path
) -> None:
    init = {"process": 1, "step": 0, "name": "SIGTERM"}
    asked = {"class_path": "tests.distributed.helpers.IsAskedToStop", "init_args": init}
    config["trainer"]["callbacks"].append(asked)
    start = time.monotonic()
    done = fit(2)
    assert time.monotonic() - start < 60
    assert done.statuses == [128 + signal.SIGTERM, 0], done.stderr
    assert "process 1 was asked to stop. Process 0 of 2 stops, too" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reward_that_fails_on_one_process_is_reported_from_all(fit: Fit, config: Config) -> None:
    config["model"]["rewards"] = [{"reward": FAILS}]
    done = fit(4)
    assert done.statuses == [1, 1, 1, 1]
    failed = done.processes.pop(1)
    assert "Traceback" in failed.stderr
    assert failed.stderr.rstrip().endswith("LookupError: the judge's key is missing here")
    for number, other in zip((0, 2, 3), done.processes, strict=True):
        told = "error: process 1: LookupError: the judge's key is missing here. "
        assert f"{told}Process {number} of 4 stops, too" in other.stderr
        assert "Traceback" not in other.stderr


@pytest.mark.slow  # the others are told after 20 s
def test_a_callback_that_waits_for_the_others_at_a_failure_is_not_waited_for(
    fit: Fit, config: Config
) -> None:
    config["model"]["rewards"] = [{"reward": FAILS}]
    config["trainer"]["max_steps"] = 4
    keeps = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"save_on_exception": True},  # it has a barrier
    }
    config["trainer"]["callbacks"].append(keeps)
    done = fit(2)
    assert done.statuses == [1, 1], done.stderr
    assert "process 1: LookupError: the judge's key is missing here" in done.processes[0].stderr


def test_an_evaluation_ends_in_all_processes(tmp_path: Path, tiny_base: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "7"}\n' * 8)
    records = {"class_path": "steer_lightning.data.Records", "init_args": {"path": "rows.jsonl"}}
    template = {"class_path": "steer_lightning.data.PlainTemplate"}
    template |= {"init_args": {"text": "{question}:"}}
    settings = {"benchmarks": {"rows": records}, "base": tiny_base, "batch_size": 2}
    settings |= {"template": template, "sampling": {"max_new_tokens": 4}, "verifier": FAILS}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(settings))
    processes = node("evaluate", "--config", "e.yaml", folder=tmp_path, processes=2)
    first, second = all_end(processes, timeout=60)
    assert (first.returncode, second.returncode) == (1, 1)
    assert "process 1: LookupError: the judge's key is missing here" in first.stderr
    assert "Traceback" in second.stderr


WATCH = """
import json, socket, threading, time
from steer_lightning.system.peer_watch import PeerWatch
doors = []
def broadcast(door):
    doors.append(door)
    return door
watch = PeerWatch(0, 2, "127.0.0.1", broadcast)
_, port, token = doors[0]
def come():
    peer = socket.create_connection(("127.0.0.1", port))
    peer.sendall((json.dumps({"token": token, "rank": 1}) + "\\n").encode())
    while not watch._names:
        time.sleep(0.01)
    return peer
"""
"""The first process of two, with a stand-in for the second."""


def watched(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCH + script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_connection_from_elsewhere_is_no_process() -> None:
    """A port scan of the first process's door: neither counted nor listened to."""
    done = watched("""
for hello in (b"GET / HTTP/1.0\\n", b"[]\\n", b'{"token": "guessed", "rank": 1}\\n'):
    stranger = socket.create_connection(("127.0.0.1", port))
    stranger.sendall(hello)
    assert stranger.recv(1) == b"", "shown the door"
come().close()
time.sleep(30)
""")
    assert done.returncode == 1
    assert "process 1 ended without giving a reason. Process 0 of 2 stops, too" in done.stderr


def test_an_error_of_a_collective_call_waits_for_its_cause() -> None:
    """The call may fail before the watch has heard of the end that it comes of."""
    done = watched("""
peer = come()
threading.Timer(0.5, peer.close).start()
watch.leave(RuntimeError("connection closed by peer"))
print("ended by its own error")
""")
    assert done.returncode == 1
    assert "process 1 ended without giving a reason. Process 0 of 2 stops, too" in done.stderr
    assert not done.stdout
