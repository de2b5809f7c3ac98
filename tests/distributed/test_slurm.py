"""The SLURM script: what it asks for, and what its tasks do with SLURM's variables and signals."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
import yaml

from steer_lightning.steering import load_vectors
from tests.integration.conftest import Config
from tests.started import ROOT, Started, all_end

pytestmark = pytest.mark.multi_process

SCRIPT = (ROOT / "configs/distributed/slurm.sh").read_text()
OPTIONS = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", SCRIPT, re.MULTILINE))
TWO_NODES = ROOT / "configs/distributed/torchrun-two-nodes.yaml"

SCONTROL = """#!/bin/sh
echo "$@" > requeued
kill -TERM $(cat tasks)  # as SLURM does when it puts a job back
"""


def test_the_script_asks_for_what_its_configuration_uses() -> None:
    trainer = yaml.safe_load(TWO_NODES.read_text())["trainer"]
    assert int(OPTIONS["nodes"]) == trainer["num_nodes"]
    assert int(OPTIONS["ntasks-per-node"]) == trainer["devices"]
    assert OPTIONS["gres"] == f"gpu:{trainer['devices']}"
    assert OPTIONS["signal"].startswith("SIGUSR1@")
    assert "requeue" in OPTIONS


def tasks(folder: Path, job: int) -> list[Started]:
    """What srun starts: a task on each of two nodes, here of one GPU each."""
    (command,) = re.findall(r"^srun .*?steer-lightning ((?:.*\\\n)*.*)", SCRIPT, re.MULTILINE)
    same = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    same |= {"SLURM_JOB_ID": str(job), "SLURM_JOB_NAME": "slurm.sh", "SLURM_LOCALID": "0"}
    same |= {"SLURM_NODELIST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    same["PATH"] = f"{folder}:{os.environ['PATH']}"
    words = shlex.split(command.replace("\\\n", " "))
    started = [
        Started(words, folder, os.environ | same | {"SLURM_PROCID": k, "SLURM_NODEID": k})
        for k in ("0", "1")
    ]
    (folder / "tasks").write_text(" ".join(str(task.pid) for task in started))
    return started


@pytest.mark.slow
def test_a_job_that_is_taken_its_machines_goes_on_from_the_queue(
    config: Config, tmp_path: Path
) -> None:
    for name in ("gsm8k", "distributed"):  # local files of these names come before the package's
        (tmp_path / name).mkdir()
    two_nodes = yaml.safe_load(TWO_NODES.read_text())
    two_nodes["trainer"]["devices"] = 1
    (tmp_path / "distributed" / TWO_NODES.stem).write_text(yaml.safe_dump(two_nodes))
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    job = random.randrange(1000, 9999)  # of which Lightning makes the port
    script = tmp_path / "gsm8k/qwen2.5-1.5b"

    asked = {"class_path": "tests.distributed.helpers.IsAskedToStop"}
    for process in (0, 1):  # SLURM signals all tasks
        init = {"process": process, "step": 1, "name": "SIGUSR1"}
        config["trainer"]["callbacks"].append({**asked, "init_args": init})
    script.write_text(yaml.safe_dump(config))
    first, second = all_end(tasks(tmp_path, job))
    assert first.returncode == 128 + signal.SIGUSR1, first.stderr
    assert second.returncode in (0, -signal.SIGTERM), second.stderr
    assert (tmp_path / "requeued").read_text() == f"requeue {job}\n"
    for task in (first, second):
        assert "SIGUSR1: finishing the step and saving" in task.stderr
        assert "Traceback" not in task.stderr
    assert (tmp_path / "runs/run-1/steering_vectors.safetensors").exists()

    again = all_end(tasks(tmp_path, job))  # the same command; its second step is behind it
    assert [task.returncode for task in again] == [0, 0], again
    assert "resuming from" in again[0].stdout
    del config["trainer"]["callbacks"][1:]
    config["trainer"]["default_root_dir"] = str(tmp_path / "whole")
    script.write_text(yaml.safe_dump(config))
    for done in all_end(tasks(tmp_path, job)):
        assert done.returncode == 0, done.stderr
    ours, theirs = (
        load_vectors(tmp_path / run / "steering_vectors.safetensors").vectors
        for run in ("runs/run-2", "whole/run-1")
    )
    assert torch.equal(ours, theirs)
