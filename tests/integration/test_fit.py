"""`fit` from a YAML to a folder of results; and what comes of mistakes."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from steer_lightning import load_vectors
from steer_lightning.testing import byte_tokenizer


def lens_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "lens.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_in_its_folder(config, run, tmp_path: Path) -> None:
    done = run(config)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "run-1"
    names = {
        "config.yaml",
        "lens.json",
        "lens.jsonl",
        "metrics.csv",
        "rollouts.parquet",
        "steering_vectors.safetensors",
        "summary.json",
    }
    assert names <= {path.name for path in folder.iterdir()}
    assert not list(folder.rglob(".*")), "nothing half-written is left behind"

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_steps"] == 4
    assert summary["trained_parameters"] == 3 * 32
    assert summary["seconds"] > 0
    assert summary["tokens_per_second"] > 0
    assert set(summary["accuracy_before"]) == set(summary["accuracy_after"]) == {"held_out"}
    assert summary["versions"]["torch"] == version("torch")

    vectors = load_vectors(folder / "steering_vectors.safetensors")
    assert vectors.vectors.shape == (3, 32)
    assert vectors.vectors.abs().max() > 0
    assert vectors.metadata["step"] == "4"
    assert vectors.metadata["base_model"] == config["model"]["base"]

    (look,) = lens_lines(folder)
    assert (look["step"], look["layers"]) == (4, [0, 1, 2])
    assert look["norms"] == look["drift"] == pytest.approx(vectors.vectors.norm(dim=1).tolist())
    lens = json.loads((folder / "lens.json").read_text())
    for layer, norm, top in zip(lens["layers"], look["norms"], look["top"], strict=True):
        assert layer["norm"] == pytest.approx(norm, rel=1e-5)
        assert layer["stream_rms"] > 0
        assert [token for token, _ in layer["top"]["dot"]] == top
    assert (lens["step"], lens["first_token"]["num_prompts"]) == (4, 8)
    shown = [prompt["prompt"] for prompt in lens["first_token"]["prompts"]]
    assert shown == [f"q{k}:" for k in range(8)]

    rollouts = pq.read_table(folder / "rollouts.parquet").to_pylist()
    assert len(rollouts) == 4 * 4 * 4
    assert {row["step"] for row in rollouts} == {1, 2, 3, 4}
    for row in rollouts:
        assert row["reward"] == float(any("a" <= letter <= "m" for letter in row["completion"]))

    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["reward/mean"]]
    assert len(rows) == 4
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    for step, row in enumerate(rows, 1):
        assert math.isfinite(float(row["update/loss"]))
        rewards = [other["reward"] for other in rollouts if other["step"] == step]
        assert float(row["reward/mean"]) == pytest.approx(sum(rewards) / 16)

    assert (
        f"mean FormatReward on held_out: {summary['accuracy_before']['held_out']:.1%} before"
        in done.stdout
    )
    for name in ("steering_vectors.safetensors", "metrics.csv", "last.ckpt", "report.html"):
        assert name in done.stdout
    assert "held_out" in (folder / "report.html").read_text()

    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["sampling"]["temperature"] == 1.0  # resolved: defaults are there
    again = run(saved)
    assert again.returncode == 0, again.stderr
    second = tmp_path / "runs" / "run-2"
    same = load_vectors(second / "steering_vectors.safetensors").vectors
    assert torch.equal(same, vectors.vectors), "the same seed gives the same vectors, bit for bit"
    assert json.loads((folder / "summary.json").read_text()) == summary, (
        "the earlier run is untouched"
    )


def test_problems_of_val_are_answered_where_an_option_says_when(
    config, run, tmp_path: Path
) -> None:
    kinds = "lightning.pytorch.callbacks"
    watched = {"monitor": "validation/accuracy", "mode": "max"}
    best = {**watched, "filename": "best-{step}", "save_top_k": -1}
    stop = {**watched, "patience": 2, "min_delta": 1.0}  # no accuracy is ever that much better
    config["model"]["verifier"] = config["model"]["rewards"][0]["reward"]
    config["trainer"].update(
        max_steps=9,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[
            {"class_path": f"{kinds}.ModelCheckpoint", "init_args": best},
            {"class_path": f"{kinds}.EarlyStopping", "init_args": stop},
        ],
    )
    done = run(config)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/run-1"
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation/accuracy"]]
    # the third validation, behind an epoch of 5 batches, is the second without a better accuracy
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(0 < float(row["validation/accuracy"]) <= 1 for row in rows)
    saved = {path.name for path in (folder / "checkpoints").glob("best*")}
    assert saved == {f"best-step={step}.ckpt" for step in (2, 4, 6)}
    assert "6 steps" in done.stdout
    assert "not trainer.max_steps = 9: trainer.max_time or a callback has ended it" in done.stdout


BNB = {
    "class_path": "bitsandbytes.optim.AdamW8bit",
    "init_args": {"lr": 0.05, "weight_decay": 0, "min_8bit_size": 0},
}


def test_mixtures_of_directions_are_looked_at_as_vectors(config, run, tmp_path: Path) -> None:
    config["model"]["steering"] = {"class_path": "steer_lightning.steering.LowRankVectors"}
    config["trainer"].update(callbacks=[], max_steps=1)
    done = run(config)
    assert done.returncode == 0, done.stderr
    norms = load_vectors(tmp_path / "runs/run-1/steering_vectors.safetensors").vectors.norm(dim=1)
    (look,) = lens_lines(tmp_path / "runs/run-1")
    assert look["norms"] == look["drift"] == pytest.approx(norms.tolist(), rel=1e-5)
    lens = json.loads((tmp_path / "runs/run-1/lens.json").read_text())
    assert [layer["norm"] for layer in lens["layers"]] == pytest.approx(norms.tolist(), rel=1e-5)


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
        (5, None),
        (6, BNB),
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
        "policy.steering.units_measured",
        "gradient_clip.running",
    }
    assert {"python", "numpy", "torch"} <= set(state["random_states"])
    resumed = run(config, "--trainer.default_root_dir=half", "--ckpt_path=last")
    assert resumed.returncode == 0, resumed.stderr
    vectors = load_vectors(tmp_path / "half/run-2/steering_vectors.safetensors").vectors
    assert torch.equal(vectors, whole)
    summary = json.loads((tmp_path / "half/run-2/summary.json").read_text())
    first = json.loads((tmp_path / "runs/run-1/summary.json").read_text())
    assert summary["num_steps"] == 7
    assert summary["accuracy_before"] == first["accuracy_before"]
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


OTHER_RUNS = [
    ("model.steering", {"layers": [0, 1]}, ["model.steering.layers = [0, 1]", "had 'all'"]),
    ("model.steering", {"scale": "none"}, ["model.steering.scale = 'none'", "'rms'"]),
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
    ("trainer.max_steps", 2, ["trainer.max_steps = 2", "2 steps already", "above 2"]),
    ("trainer.max_steps", 1, ["trainer.max_steps = 1", "2 steps already"]),
]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    OTHER_RUNS,
    ids=[f"{key}-{value}"[:40] for key, value, _ in OTHER_RUNS],
)
def test_another_runs_checkpoint_is_refused(
    config, tmp_path: Path, key: str, value, told, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steer_lightning.cli import main

    monkeypatch.chdir(tmp_path)
    config["trainer"].update(max_steps=2, callbacks=[])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "config.yaml"]) == 0
    config["trainer"]["max_steps"] = 4
    if value == "halved":
        value = str(tmp_path / Path(config["model"]["base"]).name)  # the same name and shape
        model = AutoModelForCausalLM.from_pretrained(config["model"]["base"])
        model.model.layers[1].mlp.up_proj.weight.data.mul_(0.5)
        model.save_pretrained(value)
        byte_tokenizer().save_pretrained(value)
    set_in(config, key, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "config.yaml", "--ckpt_path=last"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for part in told:
        assert part in message


def test_a_run_is_as_long_as_max_steps_or_else_one_epoch(config, run, tmp_path: Path) -> None:
    config["trainer"]["callbacks"] = []
    for max_steps, expected in ((7, 7), (-1, 5)):  # 5 steps an epoch
        config["trainer"]["max_steps"] = max_steps
        done = run(config, f"--trainer.default_root_dir=runs{max_steps}")
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / f"runs{max_steps}/run-1/summary.json").read_text())
        assert summary["num_steps"] == expected
    done = run(config, "--trainer.max_steps=7", "--trainer.max_epochs=1")
    assert "5 steps" in done.stdout
    assert "not trainer.max_steps = 7: trainer.max_epochs = 1 was reached" in done.stdout


def test_fast_dev_run_takes_one_step(config, run) -> None:
    done = run(config, "--trainer.fast_dev_run=true")
    assert done.returncode == 0, done.stderr
    done = run(config, "--trainer.log_every_n_steps=0")
    assert done.returncode == 0, done.stderr


def test_an_interrupted_run_keeps_its_vectors_and_checkpoint(config, tmp_path: Path) -> None:
    config["trainer"].update(max_steps=100_000, max_epochs=100_000)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "steer_lightning", "fit", "--config", "config.yaml"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    folder = tmp_path / "runs/run-1"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    vectors = load_vectors(folder / "steering_vectors.safetensors")
    assert int(vectors.metadata["step"]) >= 1, output
    assert list((folder / "rollouts").glob("*.parquet"))
    assert "stopped after step" in output
    assert "to go on: the same command again" in output


def test_validate_and_test_report_what_fit_reports(config, run, tmp_path: Path) -> None:
    evaluation = config["trainer"]["callbacks"][0]["init_args"]
    config["model"].update(verifier=evaluation["verifier"], eval_sampling=evaluation["sampling"])
    for command in ("validate", "test"):
        done = run(config, command=command)
        assert done.returncode == 0, done.stderr
        stage = "validation" if command == "validate" else "test"
        assert f"{stage}/accuracy" in done.stdout
        accuracy = float(re.search(r"accuracy\D+([\d.]+)", done.stdout)[1])
        assert not (tmp_path / "runs").exists(), "they write nothing"
    assert run(config).returncode == 0
    summary = json.loads((tmp_path / "runs/run-1/summary.json").read_text())
    assert 0 < accuracy < 1
    assert accuracy == pytest.approx(summary["accuracy_before"]["held_out"])


def test_a_users_reward_function_and_class_plug_in_by_name(config, run, tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def brevity(completions):\n"
        "    return [1.0 if c.num_tokens < 6 else 0.0 for c in completions]\n\n\n"
        "class Contains:\n"
        "    def __init__(self, letter: str):\n"
        "        self.letter = letter\n\n"
        "    def __call__(self, completions):\n"
        "        scores = [float(self.letter in c.text) for c in completions]\n"
        "        unknown = [c.answer == '3' for c in completions]\n"
        "        return [None if u else s for s, u in zip(scores, unknown)]\n"
    )
    config["model"]["rewards"] = [
        {"reward": "my_rewards.brevity", "weight": 0.5},
        {"reward": {"class_path": "my_rewards.Contains", "init_args": {"letter": "e"}}},
    ]
    config["trainer"].update(
        max_steps=5
    )  # a whole epoch: the problem that can't be scored is in it
    done = run(config)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "runs/run-1/rollouts.parquet").to_pylist()
    for row in rows:
        brief, contains = float(row["num_tokens"] < 6), float("e" in row["completion"])
        assert row["reward_brevity"] == brief
        assert row["reward"] == (None if row["answer"] == "3" else 0.5 * brief + contains)
        if row["answer"] == "3":
            assert row["advantage"] == 0
    assert any(row["reward"] is None for row in rows)


def test_an_8bit_optimizer_and_activation_checkpointing_by_yaml(
    config, run, tmp_path: Path
) -> None:
    config["model"]["optimizer"] = BNB
    config["model"]["activation_checkpointing"] = True
    done = run(config)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "runs/run-1/checkpoints/last.ckpt", weights_only=True)
    moments = state["optimizer_states"][0]["state"][0]["__bnb_optimizer_quant_state__"]
    assert moments["state1"].dtype == torch.uint8
    assert moments["state1"].numel() == 3 * 256
    summary = json.loads((tmp_path / "runs/run-1/summary.json").read_text())
    size = 2 * (3 * 256 + 3 * 4 + 256 * 4)
    assert summary["optimizer"] == {"name": "AdamW8bit", "state_bytes": size, "moments": ["uint8"]}
    assert f"AdamW8bit keeps {size:,} bytes of state, its moments in uint8" in done.stdout


def set_in(config: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for key in parents:
        config = config[int(key) if key.isdigit() else key]  # type: ignore[index]
    config[last] = value


BOXLESS = "{question}"
MISTAKES = [
    ("model.bas", "x", ["model.bas", "Did you mean model.base"]),
    ("model.sampling.group_size", "many", ["model.sampling.group_size", "whole number"]),
    ("model.sampling.group_size", 1, ["group_size = 1", "RLOO", "8 or more"]),
    ("model.sampling.group_size", 0, ["group_size = 0", "at least 1"]),
    ("model.kl_in_reward", {"weight": 0}, ["model.kl_in_reward.weight = 0", "kl_in_reward: null"]),
    ("model.dynamic_sampling", {"max_rounds": 0}, ["model.dynamic_sampling.max_rounds = 0"]),
    ("model.updates", {"num_passes": 2}, ["model.updates.num_passes = 2", "ScoreFunction"]),
    (
        "model.loss",
        {
            "class_path": "steer_lightning.losses.PolicyGradient",
            "init_args": {"objective": "steer_lightning.losses.Clip"},
        },
        ["model.loss.objective = 'Clip'", "model.updates.num_passes"],
    ),
    (
        "model.loss",
        {
            "class_path": "steer_lightning.losses.PolicyGradient",
            "init_args": {"objective": "steer_lightning.losses.TokenMean"},
        },
        ["objective"],
    ),
    ("model.sampling.temperature", 0, ["temperature = 0", "Greedy"]),
    ("model.sampling.top_p", 0.9, ["top_p = 0.9", "off its policy"]),
    ("model.sampling.top_k", 5, ["top_k = 5", "must be 0"]),
    (
        "model.sampling.max_new_tokens",
        254,
        ["max_new_tokens = 254", "256 positions", "to 252 or less"],
    ),
    ("model.attn_implementation", "flash_attention_2", ["model.base", "FlashAttention2"]),
    ("trainer.gradient_clip_val", 1.0, ["gradient_clip_val = 1.0", "model.gradient_clip"]),
    ("trainer.accumulate_grad_batches", 2, ["accumulate_grad_batches = 2", "data.batch_size"]),
    ("model.dtype", "fp8", ["model.dtype", "bfloat16"]),
    ("model.steering", {"layers": "5-9"}, ["'5-9'", "0 to 2", "3 decoder layers"]),
    ("model.steering", {"layers": "first"}, ["layers", "8-15"]),
    ("model.steering", {"init_from": "none.safetensors"}, ["init_from", "no such file"]),
    ("model.base", "/nowhere", ["model.base", "/nowhere", "no such folder"]),
    ("model.base", "org/not-there", ["model.base", "org/not-there", "local folder"]),
    ("model.rewards.0.reward.class_path", "steer_lightning.rewards.FormatRewar", ["FormatReward"]),
    ("model.rewards.0.reward.init_args", {"patern": "x"}, ["patern", "Did you mean pattern"]),
    ("model.rewards", [], ["model.rewards", "nothing to learn"]),
    ("model.rewards", [{"reward": "my_file.nothing"}], ["my_file", "current folder"]),
    (
        "model.optimizer.class_path",
        "bitsandbytes.optim.AdamW8bit",
        ["min_8bit_size", "768 elements"],
    ),
    (
        "model.gradient_clip",
        {"class_path": "steer_lightning.optim.NormClip", "init_args": {"max_norm": 0}},
        ["above 0"],
    ),
    ("data.template.init_args.text", "no question", ["{question}", "never sees the problem"]),
    ("data.train.init_args.path", "none.jsonl", ["none.jsonl", "no such file"]),
    ("data.train.init_args.answer_column", "gold", ["gold", "question, answer"]),
    ("data.train.init_args.path", "empty.jsonl", ["empty.jsonl", "no rows"]),
    ("data.batch_size", 50, ["data.batch_size = 50", "only 20"]),
    ("data.max_prompt_tokens", 1, ["max_prompt_tokens", "all 20 prompts"]),
    ("trainer.precision", "bf16-true", ["trainer.precision", "model.dtype"]),
    ("trainer.accelerator", "gpu", ["trainer"]),
    (
        "trainer",
        {"max_steps": -1, "max_epochs": -1, "accelerator": "cpu"},
        ["trainer.max_steps", "max_epochs"],
    ),
    ("seed_everything", -1, ["seed_everything = -1", "from 0 to"]),
    ("trainer.callbacks.0.init_args", {}, ["BenchmarkEval.benchmarks", "data.val"]),
    (
        "trainer.callbacks",
        [{"class_path": "steer_lightning.callbacks.RunSummary"}] * 2,
        ["trainer"],
    ),
    ("trainer.default_root_dir", "train.jsonl", ["default_root_dir", "must be a folder"]),
    ("trainer.default_root_dir", "train.jsonl/x", ["default_root_dir", "is a file"]),
    ("trainer.default_root_dir", None, ["default_root_dir", "must be a folder"]),
    ("ckpt_path", "train.jsonl", ["ckpt_path", "can't be read", "init_from"]),
    ("model.optimizer.init_args", {"lr": -1.0}, ["model.optimizer", "Invalid learning rate"]),
    ("model.optimizer.init_args", {"lr": "fast"}, ["model.optimizer.lr", "a number"]),
    ("model.optimizer", {"class_path": "torch.optim.LBFGS"}, ["LBFGS", "AdamW8bit"]),
    ("model.rewards", "MathReward", ["model.rewards", "must be a list"]),
    ("model.steering", {"init_from": "train.jsonl"}, ["train.jsonl", "safetensors"]),
    ("data.train", None, ["data.train = None", "must be set"]),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "steer_lightning.callbacks.BenchmarkEval",
                "init_args": {"sampling": {"group_size": size, "max_new_tokens": 4}},
            }
            for size in (1, 2)
        ],
        ["validation", "another BenchmarkEval"],
    ),
    ("trainer.callbacks", [{"class_path": "BenchmarkEva"}], ["BenchmarkEva", "with its module"]),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "steer_lightning.callbacks.LastCheckpoint",
                "init_args": {"every_n_steps": 0},
            }
        ],
        ["LastCheckpoint.every_n_steps = 0"],
    ),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                "init_args": {"monitor": "x", "mode": "up"},
            }
        ],
        ["EarlyStopping", "can be min, max"],
    ),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"every_n_train_steps": -3},
            }
        ],
        ["every_n_train_steps"],
    ),
    (
        "trainer.logger",
        {"class_path": "lightning.pytorch.loggers.WandbLogger"},
        ["WandbLogger", "wandb"],
    ),
    ("ckpt_path", "none.ckpt", ["ckpt_path", "no such file"]),
]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    MISTAKES,
    ids=[f"{key}={str(value)[:20]}" for key, value, _ in MISTAKES],
)
def test_each_mistake_gets_one_clear_message(
    config,
    tmp_path: Path,
    key: str,
    value: object,
    told: list[str],
    capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from steer_lightning.cli import main

    if key == "trainer.accelerator" and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    (tmp_path / "empty.jsonl").write_text("\n")
    if value == {}:
        del config["data"]["val"]
    if key == "trainer":
        value = {**config["trainer"], **value}  # type: ignore[dict-item]
    set_in(config, key, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "config.yaml"]) == 2
    output = capsys.readouterr()
    message = output.err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    for part in told:
        assert part in message
    assert "Traceback" not in output.err + output.out
    assert not list(tmp_path.glob("runs/*")), "a run that never began leaves no folder"


SHOWS = """
from steer_lightning.callbacks import LensCallback, RolloutTable

class Lens(LensCallback):
    def _tokens(self, policy, vectors):
        raise ValueError("no tokens")

class Table(RolloutTable):
    def _show(self, step, number):
        raise TypeError("no show")
    def on_fit_end(self, trainer, module):
        (self._folder / "step_000001.parquet").write_text("no table")
        super().on_fit_end(trainer, module)

def huge(completions):
    return [3e38 if ord(x.text[:1] or "a") % 2 else -3e38 for x in completions]
"""


def test_what_only_shows_does_not_end_a_run(config, run, tmp_path: Path) -> None:
    (tmp_path / "shows.py").write_text(SHOWS)
    config["model"]["rewards"] = [{"reward": "shows.huge"}]
    evaluation = config["trainer"]["callbacks"][0]["init_args"]
    evaluation["benchmarks"] = {r"$\frac{$": evaluation["benchmarks"]["held_out"]}
    config["trainer"]["callbacks"] += [
        {"class_path": "shows.Lens"},
        {"class_path": "shows.Table", "init_args": {"every_n_steps": 2}},
    ]
    config["trainer"]["enable_progress_bar"] = True
    done = run(config)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for told in (
        "a look through the lens is left out: ValueError: no tokens",
        "the show of completions is left out: TypeError: no show",
        "rollouts, is left out: ArrowInvalid",
        "loss or gradient were not finite",
    ):
        assert told in said, told
    folder = tmp_path / "runs/run-1"
    assert json.loads((folder / "summary.json").read_text())["num_steps"] == 4, "it has ended"
    assert (folder / "reward_curve.png").exists()
    assert (folder / "rollouts/step_000002.parquet").exists(), "what can't be joined is kept"
    again = run(config)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs/run-2").exists(), "there is nothing to go on with"
    assert "going on with" not in again.stdout


def test_a_reward_that_misbehaves_is_named(config, run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def short(completions):\n    return [1.0, 2.0]\n")
    config["model"]["rewards"] = [{"reward": "bad.short"}]
    done = run(config)
    assert done.returncode == 2
    assert "reward short" in done.stderr.splitlines()[-1]
    assert "one score for each of 1 completions (it returned '2 scores')" in done.stderr


def test_a_full_disk_stops_with_a_message_and_keeps_what_is_whole(config, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    script = """
import resource, signal, sys
from steer_lightning.callbacks import RolloutTable
from steer_lightning.cli import main
write = RolloutTable.on_train_batch_end
def full(self, trainer, *rest):
    if trainer.global_step == 3:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    write(self, trainer, *rest)
RolloutTable.on_train_batch_end = full
sys.exit(main(["fit", "--config", "config.yaml"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr.splitlines()[-1]
    folder = tmp_path / "runs/run-1"
    assert [pq.read_table(path).num_rows for path in sorted((folder / "rollouts").iterdir())] == [
        16,
        16,
    ]
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert not list(folder.rglob(".*"))


def test_a_disk_that_fills_up_while_a_checkpoint_is_saved(config, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    script = """
import resource, signal, sys
from steer_lightning.callbacks.last_checkpoint import WholeFileCheckpointIO
from steer_lightning.cli import main
save = WholeFileCheckpointIO.save_checkpoint
def full(self, checkpoint, *rest, **options):
    if checkpoint["global_step"] == 3:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    save(self, checkpoint, *rest, **options)
WholeFileCheckpointIO.save_checkpoint = full
sys.exit(main(["fit", "--config", "config.yaml"]))
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr.splitlines()[-1]
    checkpoint = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2


def test_a_single_callback_a_sub_config_and_a_benchmark_given_later(
    config, run, tmp_path: Path
) -> None:
    evaluation = config["trainer"]["callbacks"][0]
    config["trainer"]["callbacks"] = {"class_path": "steer_lightning.callbacks.RewardLogger"}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config.pop("model")))
    words = ["--model=model.yaml", "--trainer.max_steps=2"]
    done = run(config, *words)
    assert done.returncode == 0, done.stderr
    saved = yaml.safe_load((tmp_path / "runs/run-1/config.yaml").read_text())
    assert saved["model"]["sampling"]["group_size"] == 4, "resolved in one file"
    config["trainer"]["callbacks"] = [evaluation]
    done = run(config, words[0], "--ckpt_path=last")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/run-2/summary.json").read_text())
    assert summary["accuracy_before"] == {}, "it was not measured before the first step"
    assert set(summary["accuracy_after"]) == {"held_out"}
    assert "not measured before" in done.stdout


def test_the_quickstart_learns(run, root: Path, tmp_path: Path) -> None:
    """A third of the quickstart's steps on fewer held-out problems.

    The whole one is `make quickstart`.
    """
    config = yaml.safe_load((root / "configs/quickstart.yaml").read_text())
    config["trainer"]["callbacks"][0]["init_args"]["benchmarks"]["arithmetic"]["init_args"][
        "num_problems"
    ] = 256
    done = run(config, "--trainer.max_steps=20", "--trainer.default_root_dir=runs")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/run-1/summary.json").read_text())
    assert summary["accuracy_before"]["arithmetic"] <= 0.4
    assert summary["accuracy_after"]["arithmetic"] >= 0.75
    assert summary["trained_parameters"] == 4 * 192
    assert (tmp_path / "runs/run-1/reward_curve.png").stat().st_size > 10_000
