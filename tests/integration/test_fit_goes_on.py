"""Runs that were killed, interrupted or ran out of disk, and what goes on with them."""

from __future__ import annotations

import csv
import json
import math
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from steer_lightning import load_vectors
from steer_lightning.callbacks import RolloutTable
from steer_lightning.callbacks.checkpoint_file import load_checkpoint
from steer_lightning.callbacks.last_checkpoint import WholeFileCheckpointIO
from steer_lightning.cli import main
from steer_lightning.testing import byte_tokenizer
from tests.held import HOLDS, IS_HELD, wait
from tests.integration.conftest import add_arms, letters
from tests.integration.helpers import BNB, lens_lines, set_in
from tests.started import start

KILLER = """
import os, signal
from lightning.pytorch.callbacks import Callback

class Killer(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("step", "optimizer"),  # 5 steps an epoch: before, at and behind its end
    [
        (3, BNB),
        pytest.param(5, None, marks=pytest.mark.slow),
        pytest.param(6, BNB, marks=pytest.mark.slow),
        pytest.param(3, None, marks=pytest.mark.slow),
        pytest.param(5, BNB, marks=pytest.mark.slow),
        pytest.param(6, None, marks=pytest.mark.slow),
    ],
    ids=["3-AdamW8bit", "5-AdamW", "6-AdamW8bit", "3-AdamW", "5-AdamW8bit", "6-AdamW"],
)
def test_a_killed_run_goes_on_bit_for_bit(config, run, tmp_path: Path, optimizer, step) -> None:
    config["model"]["optimizer"] = optimizer or config["model"]["optimizer"]
    config["model"]["schedule"] = {"kind": "cosine", "warmup": 0.3}
    config["trainer"]["max_steps"] = 7
    add_arms(config)
    lens = {"class_path": "steer_lightning.callbacks.LensCallback"}
    config["trainer"]["callbacks"].append({**lens, "init_args": {"every_n_steps": 2}})
    assert run(config).returncode == 0
    whole = load_vectors(tmp_path / "runs/run-1/steering_vectors.safetensors").vectors
    (tmp_path / "killer.py").write_text(KILLER)
    killer = {"class_path": "killer.Killer", "init_args": {"step": step}}
    killed = json.loads(json.dumps(config))
    killed["trainer"]["callbacks"].append(killer)
    assert run(killed, "--trainer.default_root_dir=half").returncode == -signal.SIGKILL
    checkpoint = tmp_path / "half/run-1/checkpoints/last.ckpt"
    assert checkpoint.stat().st_size < 100_000
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == step - 1, "the step under way is the only one that is lost"
    assert set(state["state_dict"]) == {
        "policy.steering.weight",
        "policy.steering.unit",
        "policy.steering.stream",
        "policy.steering.units_measured",
        "gradient_clip.running",
    }
    (states,) = state["random_states"]  # of one process
    assert {"python", "numpy", "torch"} <= set(states)
    resumed = run(config, "--trainer.default_root_dir=half", "--ckpt_path=last")
    assert resumed.returncode == 0, resumed.stderr
    vectors = load_vectors(tmp_path / "half/run-2/steering_vectors.safetensors").vectors
    assert torch.equal(vectors, whole)
    best = [tmp_path / place / "best.safetensors" for place in ("runs/run-1", "half/run-2")]
    assert best[0].read_bytes() == best[1].read_bytes()
    summary = json.loads((tmp_path / "half/run-2/summary.json").read_text())
    first = json.loads((tmp_path / "runs/run-1/summary.json").read_text())
    assert summary["num_steps"] == 7
    assert summary["accuracy_before"] == first["accuracy_before"]
    assert summary["arms"] == first["arms"]
    assert len(summary["arms"]["held_out"]) == 5
    assert summary["best"] == first["best"]
    with (tmp_path / "half/run-2/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["update/learning_rate"]]
    rates = {1: 0.5, 2: 1.0, 3: 1.0}  # 2 of 7 steps of warm-up, then half a cosine over 5
    rates |= {k: 0.5 + 0.5 * math.cos(math.pi * (k - 3) / 5) for k in range(4, 8)}
    found = {int(row["step"]): float(row["update/learning_rate"]) for row in rows}
    assert found == pytest.approx({k: 0.05 * rates[k] for k in range(step, 8)})
    looks = lens_lines(tmp_path / "runs/run-1")
    assert [look["step"] for look in looks] == [2, 4, 6, 7]
    assert all(look["drift"] == look["norms"] != look["drift_since_last"] for look in looks[1:])
    assert lens_lines(tmp_path / "half/run-2") == [look for look in looks if look["step"] >= step]


@pytest.mark.parametrize("step", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(
    config, run, tmp_path: Path, step: int
) -> None:
    """`EarlyStopping`, and the best vectors by validation; one every 3 steps, of 5 an epoch."""
    watched = {"monitor": "validation/accuracy", "mode": "max", "patience": 2, "min_delta": 1.0}
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": watched}
    config["model"]["verifier"] = config["model"]["rewards"][0]["reward"]
    config["trainer"].update(max_steps=20, val_check_interval=3, check_val_every_n_epoch=None)
    config["trainer"]["callbacks"] = [stop]
    assert run(config).returncode == 0
    (tmp_path / "killer.py").write_text(KILLER)
    killed = json.loads(json.dumps(config))
    # the step behind a validation is killed, after 3 or 6 steps
    killer = {"class_path": "killer.Killer", "init_args": {"step": step}}
    killed["trainer"]["callbacks"].append(killer)
    assert run(killed, "--trainer.default_root_dir=half").returncode == -signal.SIGKILL
    resumed = run(config, "--trainer.default_root_dir=half", "--ckpt_path=last")
    assert resumed.returncode == 0, resumed.stderr
    whole, half = tmp_path / "runs/run-1", tmp_path / "half/run-2"
    for name in ("steering_vectors.safetensors", "best.safetensors"):
        assert (whole / name).read_bytes() == (half / name).read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, half)]
    for key in ("num_steps", "ended_early", "best"):
        assert summaries[0][key] == summaries[1][key]
    assert summaries[0]["num_steps"] == 9, "the third validation is the second without a rise"
    with (half / "metrics.csv").open() as file:
        rows = [row["step"] for row in csv.DictReader(file) if row["validation/accuracy"]]
    assert rows == [str(k) for k in (3, 6, 9) if k >= step]


OTHER_RUNS = [
    ("model.steering", {"layers": [0, 1]}, ["model.steering.layers = [0, 1]", "had 'all'"]),
    ("model.steering", {"scale": "none"}, ["model.steering.scale = 'none'", "'kl'"]),
    ("model.gradient_clip", {"class_path": "steer_lightning.optim.NormClip"}, ["had None"]),
    (
        "model.optimizer",
        BNB,
        ["model.optimizer.class_path = 'bitsandbytes.optim.", "had 'torch.optim.AdamW'"],
    ),
    ("data.batch_size", 5, ["data.batch_size = 5", "made with 4", "init_from"]),
    ("data.template.init_args.text", "Q {question}:", ["checksum of the prompts"]),
    ("model.optimizer.init_args", {"lr": 0.5}, ["model.optimizer.init_args.lr = 0.5", "had 0.05"]),
    ("model.sampling", {"group_size": 3, "max_new_tokens": 6}, ["model.sampling", "group_size"]),
    ("model.rewards.0.weight", 2.0, ["model.rewards", "'weight': 1.0"]),
    ("model.base", "halved", ["model.base (checksum of its weights)"]),
    ("trainer.max_steps", 2, ["trainer.max_steps = 2", "already taken 2 steps", "above 2"]),
    ("trainer.max_steps", 1, ["trainer.max_steps = 1", "already taken 2 steps"]),
]


@pytest.fixture(scope="module")
def ended(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 2 steps."""
    folder = tmp_path_factory.mktemp("ended")
    config = letters(tiny_base, folder)
    config["trainer"].update(max_steps=2, callbacks=[])
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(folder / "config.yaml")]) == 0
    return folder


@pytest.mark.parametrize(
    ("key", "value", "told"),
    OTHER_RUNS,
    ids=[f"{key}-{value}"[:40] for key, value, _ in OTHER_RUNS],
)
def test_another_runs_checkpoint_is_refused(
    ended: Path, tmp_path: Path, key: str, value, told, capsys
) -> None:
    config = yaml.safe_load((ended / "config.yaml").read_text())
    config["trainer"]["max_steps"] = 4
    if value == "halved":
        value = str(tmp_path / Path(config["model"]["base"]).name)  # the same name and shape
        model = AutoModelForCausalLM.from_pretrained(config["model"]["base"])
        model.model.layers[1].mlp.up_proj.weight.data.mul_(0.5)
        model.save_pretrained(value)
        byte_tokenizer().save_pretrained(value)
    set_in(config, key, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "config.yaml"), "--ckpt_path=last"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for part in told:
        assert part in message


def test_an_interrupted_run_keeps_its_vectors_and_checkpoint(config, tmp_path: Path) -> None:
    held = {"class_path": "tests.held.Held", "init_args": {"step": 2}}
    config["trainer"]["callbacks"].append(held)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / HOLDS).touch()
    process = start("fit", "--config", "config.yaml", folder=tmp_path)
    wait(process.poll, (tmp_path / IS_HELD).exists)
    process.send_signal(signal.SIGINT)
    done = process.end()
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in done.stderr
    folder = tmp_path / "runs/run-1"
    vectors = load_vectors(folder / "steering_vectors.safetensors")
    assert int(vectors.metadata["step"]) == 2
    assert len(list((folder / "rollouts").glob("*.parquet"))) == 2
    assert load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == 2
    assert "stopped after step 2" in done.stdout + done.stderr
    assert "to resume: repeat the command" in done.stdout + done.stderr


def fills_up_in_rollouts() -> None:
    """The command line, with a disk that is full when the rollouts of step 3 are written."""
    write = RolloutTable.on_train_batch_end

    def full(self: RolloutTable, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 3:
            fill_disk()
        write(self, trainer, *rest)

    RolloutTable.on_train_batch_end = full
    sys.exit(main())


def fills_up_in_a_checkpoint() -> None:
    """The command line, with a disk that is full when the checkpoint of step 3 is written."""
    save = WholeFileCheckpointIO.save_checkpoint

    def full(self: WholeFileCheckpointIO, checkpoint: Any, *rest: Any, **options: Any) -> None:
        if checkpoint["global_step"] == 3:
            fill_disk()
        save(self, checkpoint, *rest, **options)

    WholeFileCheckpointIO.save_checkpoint = full
    sys.exit(main())


def fill_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


@pytest.mark.parametrize("fills_up", [fills_up_in_rollouts, fills_up_in_a_checkpoint])
@pytest.mark.slow
def test_a_full_disk_stops_with_a_message_and_keeps_what_is_whole(
    config, tmp_path: Path, fills_up: Callable[[], None]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    process = start("fit", "--config", "config.yaml", folder=tmp_path, run=fills_up)
    done = process.end()
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr.splitlines()[-1]
    folder = tmp_path / "runs/run-1"
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    tables = sorted((folder / "rollouts").iterdir())
    assert [pq.read_table(path).num_rows for path in tables[:2]] == [16, 16]
    assert not list(folder.rglob(".*"))
