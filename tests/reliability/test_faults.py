"""Faults that are really made: folders removed or read-only, a hub that is silent, changed data."""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning.steering import load_vectors
from tests.integration.conftest import Config
from tests.reliability import test_reward_pool as pool_tests
from tests.reliability.conftest import Figure

Run = Callable[..., Any]

REMOVER = """
import shutil
from lightning.pytorch.callbacks import Callback

class Remover(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            shutil.rmtree(trainer.default_root_dir)
"""


@pytest.mark.slow
def test_a_run_whose_folder_is_removed_keeps_what_it_learns(
    config: Config, run: Run, tmp_path: Path
) -> None:
    assert run(config).returncode == 0
    (tmp_path / "remover.py").write_text(REMOVER)
    config["trainer"]["callbacks"].append({"class_path": "remover.Remover"})
    done = run(config)
    assert done.returncode == 0, done.stderr
    assert "run-2 was removed during the run" in done.stderr
    name = "steering_vectors.safetensors"
    whole, kept = (load_vectors(tmp_path / f"runs/run-{n}/{name}").vectors for n in (1, 2))
    assert torch.equal(whole, kept)
    steps = pq.read_table(tmp_path / "runs/run-2/rollouts.parquet")["step"].to_pylist()
    assert set(steps) == {3, 4}
    assert (tmp_path / "runs/run-2/checkpoints/last.ckpt").exists()


def test_a_read_only_output_folder_is_one_message(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    config["trainer"]["default_root_dir"] = str(folder)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "steer_lightning", "fit", "--config", "config.yaml"]
    if os.geteuid() == 0:  # whom permissions do not stop: a file system that is read-only
        mount = f"mount -t tmpfs -o ro tmpfs {shlex.quote(str(folder))}"
        if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
            pytest.skip("root without the right to mount")
        command = ["unshare", "-m", "sh", "-c", f"{mount} && exec {shlex.join(command)}"]
    else:
        folder.chmod(0o555)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: trainer.default_root_dir = ")
    assert "closed/run-1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def take() -> None:
        with suppress(OSError):
            while True:
                held.append(server.accept()[0])

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    for connection in held:
        connection.close()


@pytest.mark.parametrize("what", ["model", pytest.param("data", marks=pytest.mark.slow)])
def test_a_hub_that_does_not_answer_is_a_message_with_the_local_way(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "model":
        config["model"]["base"] = "someone/some-model"
    else:
        config["data"]["train"] = {
            "class_path": "steer_lightning.data.Records",
            "init_args": {"hub_name": "someone/some-data"},
        }
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "steer_lightning", "fit", "--config", "config.yaml"]
    with silent_server() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)  # read when huggingface_hub is imported
        start = time.monotonic()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert time.monotonic() - start < 60
    told = done.stderr.splitlines()[-1]
    assert told.startswith("error: "), done.stderr
    expected = ("model.base", "local folder") if what == "model" else ("some-data", "`path`")
    assert all(word in told for word in expected), told


def test_data_that_has_changed_is_noticed_when_the_run_goes_on(
    config: Config, run: Run, tmp_path: Path
) -> None:
    assert run(config).returncode == 0
    (tmp_path / "runs/run-1/summary.json").unlink()  # as if it had been interrupted
    rows = (tmp_path / "train.jsonl").read_text().splitlines()
    for row in ({"question": "another", "answer": "3"}, {"question": "q3", "answer": "4"}):
        rows[3] = json.dumps(row)
        (tmp_path / "train.jsonl").write_text("\n".join(rows))
        done = run(config)
        assert done.returncode == 2
        assert "data.train (checksum of the prompts)" in done.stderr
        assert "model.steering.init_from" in done.stderr


def test_faults_are_counted(figure: Figure) -> None:
    """The figure is the number of faults that tests of this folder really make."""
    pooled = {
        "worker killed": pool_tests.test_a_worker_killed_from_outside_costs_nothing,
        "keeper killed": pool_tests.test_a_killed_keeper_leaves_no_daemon_of_a_reward,
        "training process killed": (
            pool_tests.test_when_the_training_process_is_killed_its_workers_go_with_it
        ),
    }
    here = {
        "folder removed": test_a_run_whose_folder_is_removed_keeps_what_it_learns,
        "folder read-only": test_a_read_only_output_folder_is_one_message,
        "no model hub": test_a_hub_that_does_not_answer_is_a_message_with_the_local_way,
        "no data hub": test_a_hub_that_does_not_answer_is_a_message_with_the_local_way,
        "data changed": test_data_that_has_changed_is_noticed_when_the_run_goes_on,
    }
    tests = {test for name, test in globals().items() if name.startswith("test_")}
    tests.remove(test_faults_are_counted)
    assert Counter(here.values()) == {test: num_cases(test) for test in tests}
    figure("faults", len(pooled) + len(here))


def num_cases(test: Callable[..., None]) -> int:
    """How often pytest runs a test."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return math.prod(len(mark.args[1]) for mark in marks)
