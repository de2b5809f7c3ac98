"""Two nodes, each a network of its own with one cable between them: Linux network namespaces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from steer_lightning.callbacks.checkpoint_file import load_checkpoint
from steer_lightning.steering import load_vectors
from tests.integration.conftest import Config
from tests.started import ROOT, Started, all_end, command_line, node

pytestmark = pytest.mark.multi_process

Process = subprocess.Popen[str]


class TwoNodes:
    """Two network namespaces; node 0 has the address 10.83.0.1."""

    def __init__(self, mark: str) -> None:
        self.names = [f"steer-{mark}-{k}" for k in (0, 1)]
        self.cables = [f"sl{mark}{k}"[-15:] for k in (0, 1)]

    def set_up(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.cables[0], "type", "veth", "peer", "name", self.cables[1])
        for k, (name, cable) in enumerate(zip(self.names, self.cables, strict=True)):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"10.83.0.{k + 1}/24", "dev", cable)
            for device in ("lo", cable):
                ip("-n", name, "link", "set", device, "up")

    def take_down(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def cut(self) -> None:
        """Takes node 1 off the network: nothing is told to node 0, it just falls silent."""
        ip("-n", self.names[1], "link", "set", self.cables[1], "down")

    def bytes_out(self) -> int:
        """What node 0 has sent over the cable."""
        path = f"/sys/class/net/{self.cables[0]}/statistics/tx_bytes"
        return int(ip("netns", "exec", self.names[0], "cat", path))

    def torchrun(self, node: int, folder: Path, processes: int, *words: str) -> Process:
        """What a user starts on each machine."""
        command = ["ip", "netns", "exec", self.names[node], sys.executable, "-m"]
        command += ["torch.distributed.run", "--nnodes=2", f"--nproc-per-node={processes}"]
        command += [f"--node-rank={node}", "--master-addr=10.83.0.1", "--master-port=29500"]
        command += ["-m", "steer_lightning", "fit", "--config", "config.yaml", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment["GLOO_SOCKET_IFNAME"] = self.cables[node]
        return subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE
        )

    def start(self, folder: Path, processes: int, *words: str) -> list[Started]:
        """The processes of both, without torchrun."""
        return [
            process
            for k in (0, 1)
            for process in node(
                *("fit", "--config", "config.yaml", *words),
                folder=folder,
                processes=processes,
                number=k,
                nodes=2,
                first=("10.83.0.1", 29500),
                network=self.names[k],
                GLOO_SOCKET_IFNAME=self.cables[k],
            )
        ]


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr}")
    return done.stdout


@pytest.fixture
def nodes() -> Iterator[TwoNodes]:
    found = TwoNodes(str(os.getpid()))
    try:
        found.set_up()
    except OSError as error:  # needs root, and the programs of iproute2
        found.take_down()
        pytest.skip(f"no network namespaces here: {error}")
    yield found
    found.take_down()


def prepare(config: Config, folder: Path, processes: int, max_steps: int) -> None:
    """The configuration for two nodes as it is shipped, on CPUs."""
    shipped = yaml.safe_load((ROOT / "configs/distributed/torchrun-two-nodes.yaml").read_text())
    trainer: dict[str, Any] = {**config["trainer"], **shipped["trainer"]}
    config["trainer"] = {**trainer, "devices": processes, "max_steps": max_steps}
    config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
    config["model"]["gradient_clip"] = {
        "class_path": "steer_lightning.optim.NormClip",
        "init_args": {"max_norm": 1e6},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def errors(*processes: Process) -> list[str]:
    return [process.communicate(timeout=120)[1] for process in processes]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_two_nodes_train_as_one(
    nodes: TwoNodes, config: Config, tmp_path: Path, processes: int
) -> None:
    prepare(config, tmp_path, processes, max_steps=2)
    both = [nodes.torchrun(node, tmp_path, processes) for node in (0, 1)]
    told = errors(*both)
    assert [process.returncode for process in both] == [0, 0], told
    folders = list(tmp_path.glob("runs/run-*"))
    assert len(folders) == 1, "the processes of two nodes are one run"
    found = load_vectors(folders[0] / "steering_vectors.safetensors").vectors

    config["trainer"].update(devices=1, num_nodes=1, strategy="auto")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = command_line("fit", "--config", "config.yaml", "--ckpt_path=new", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = load_vectors(tmp_path / "runs/run-2/steering_vectors.safetensors").vectors
    assert alone.abs().max() > 0
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_no_weight_of_the_base_travels_between_nodes(
    nodes: TwoNodes, config: Config, tmp_path: Path
) -> None:
    """What goes over the cable in a step, by the operating system's own count."""
    config["trainer"]["callbacks"] = []
    sent = []
    for steps in (2, 22):
        prepare(config, tmp_path, 2, max_steps=steps)
        before = nodes.bytes_out()
        for done in all_end(nodes.start(tmp_path, 2, "--ckpt_path=new")):
            assert done.returncode == 0, done.stderr
        sent.append(nodes.bytes_out() - before)
    base = 44_640 * 4
    assert sent[0] > base, "once, when the first process hands the base to the others"
    assert (sent[1] - sent[0]) / 20 < base / 4, "a single gathering of half the base would be more"


@pytest.mark.slow
def test_a_node_that_falls_silent_ends_the_run_and_what_was_saved_is_whole(
    nodes: TwoNodes, config: Config, tmp_path: Path
) -> None:
    prepare(config, tmp_path, 2, max_steps=100_000)
    every = nodes.start(tmp_path, 2)
    checkpoint = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    nodes.cut()
    ended = all_end(every, timeout=60)  # on both sides of the cut
    assert [done.returncode for done in ended] == [1] * 4
    # the first process sees the others go; those that are cut off from it see that it has gone
    for number, done in enumerate(ended):
        gone = "process [23]" if number < 2 else "process 0"
        told = rf"error: {gone} ended without giving a reason. Process {number} of 4 stops, too"
        assert re.search(told, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    saved = load_checkpoint(checkpoint)["global_step"]
    assert saved > 0

    config["trainer"].update(devices=1, num_nodes=1, strategy="auto", max_steps=saved + 1)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = ("fit", "--config", "config.yaml", f"--ckpt_path={checkpoint}")
    done = command_line(*words, folder=tmp_path)
    assert done.returncode == 0, f"the last checkpoint is usable: {done.stderr}"
