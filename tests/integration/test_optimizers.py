"""Optimizers of matrices in whole runs: they go on bit for bit, are refused early, and sweep."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from steer_lightning import load_vectors
from steer_lightning.callbacks.checkpoint_file import checksum, load_checkpoint
from steer_lightning.cli import main
from tests.integration.conftest import Config

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "MuonByLayer": {"class_path": "MuonByLayer", "init_args": {"lr": 0.05}},
    "Muon": {"class_path": "Muon", "init_args": {"lr": 0.3, "weight_decay": 0.0}},
    "SOAPByLayer": {
        "class_path": "SOAPByLayer",
        "init_args": {"lr": 0.05, "precondition_frequency": 2},
    },
    "SOAP": {
        "class_path": "pytorch_optimizer.SOAP",
        "init_args": {"lr": 0.05, "precondition_frequency": 2, "weight_decay": 0.0},
    },
}


@pytest.fixture
def work(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    config["model"]["steering"] = {"class_path": "SteeringVectors"}
    config["trainer"].update(max_steps=6, callbacks=[])
    return config


def start(command: str, config: Config, *words: str) -> int:
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return main([command, "--config", "config.yaml", *words])


@pytest.mark.parametrize(
    "optimizer",
    [
        OPTIMIZERS["MuonByLayer"],
        OPTIMIZERS["SOAPByLayer"],
        pytest.param(OPTIMIZERS["Muon"], marks=pytest.mark.slow),
        pytest.param(OPTIMIZERS["SOAP"], marks=pytest.mark.slow),
    ],
    ids=["MuonByLayer", "SOAPByLayer", "Muon", "SOAP"],
)
def test_a_run_goes_on_bit_for_bit(optimizer: dict[str, Any], work: Config) -> None:
    work["model"]["optimizer"] = optimizer
    assert start("fit", work) == 0
    assert start("fit", work, "--trainer.max_steps=3", "--ckpt_path=new") == 0
    assert start("fit", work, "--ckpt_path=runs/run-2/checkpoints/last.ckpt") == 0
    ends = [load_checkpoint(Path(f"runs/run-{k}/checkpoints/last.ckpt")) for k in (1, 3)]
    for key in ("state_dict", "optimizer_states"):
        assert checksum({key: ends[0][key]}) == checksum({key: ends[1][key]}), key
    weight = ends[0]["state_dict"]["policy.steering.weight"]
    vectors = load_vectors(Path("runs/run-1")).vectors
    assert weight[:, : vectors.shape[1]].count_nonzero() > 0
    assert (weight[:, vectors.shape[1] :] == 0).all(), "the padding stays 0"


def test_experiments_of_a_sweep_are_single_runs(work: Config) -> None:
    rows = [{"name": name, "model.optimizer": given} for name, given in OPTIMIZERS.items()]
    Path("sweep.yaml").write_text(yaml.safe_dump(rows))
    work["trainer"]["default_root_dir"] = "together"
    assert start("sweep", work, "--experiments=sweep.yaml") == 0
    for name in ("MuonByLayer", "SOAPByLayer"):
        work["model"]["optimizer"] = OPTIMIZERS[name]
        assert start("fit", work, f"--trainer.default_root_dir=alone/{name}") == 0
        runs = (Path("together") / name / "run-1", Path("alone") / name / "run-1")
        one, two = (load_vectors(run).vectors for run in runs)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


MISTAKES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("BitFit", OPTIMIZERS["Muon"], ["model.optimizer = 'Muon'", "model.steering = BitFit", "2D"]),
    ("LoRA", OPTIMIZERS["MuonByLayer"], ["'MuonByLayer'", "model.steering = LoRA", "matrices"]),
    ("LoRA", OPTIMIZERS["SOAPByLayer"], ["'SOAPByLayer'", "model.steering = LoRA", "matrices"]),
    ("SteeringVectors", {"momentum": 1.0}, ["model.optimizer.init_args.momentum = 1", "below 1"]),
    ("SteeringVectors", {"lr": -0.1}, ["model.optimizer.init_args.lr = -0.1", "at least 0"]),
    ("SteeringVectors", {"ns_steps": 5}, ["ns_steps", "MuonByLayer"]),
]


@pytest.mark.parametrize(("steering", "optimizer", "told"), MISTAKES)
def test_mistakes_are_named_before_the_model_loads(
    steering: str,
    optimizer: dict[str, Any],
    told: list[str],
    work: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "class_path" not in optimizer:
        settings = {"lr": 0.05, **optimizer}
        optimizer = {"class_path": "MuonByLayer", "init_args": settings}
    work["model"].update(steering={"class_path": steering}, optimizer=copy.deepcopy(optimizer))
    monkeypatch.setattr("steer_lightning.model.policy.Policy.load", None)  # would crash
    assert start("fit", work) != 0
    found = capsys.readouterr().err
    assert all(part in found for part in told), found
    assert "Traceback" not in found
