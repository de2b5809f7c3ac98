"""`fit` from a YAML to a folder of results."""

from __future__ import annotations

import csv
import json
import math
import re
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning import load_vectors
from tests.integration.helpers import BNB, lens_lines


def test_a_run_leaves_everything_in_its_folder(config, run, tmp_path: Path) -> None:
    done = run(config)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "run-1"
    names = {
        "best.safetensors",
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

    assert summary["ended_early"] is None
    best = summary["best"]
    assert best.keys() == {"step", "metric", "value", "file"}
    assert (best["metric"], best["file"]) == ("benchmark/held_out/accuracy", "best.safetensors")
    metadata = load_vectors(folder / best["file"]).metadata
    assert int(metadata["step"]) == best["step"]
    assert float(metadata["value"]) == pytest.approx(best["value"], rel=1e-5)
    assert metadata["metric"] == best["metric"]
    assert f"best: step {best['step']}, benchmark/held_out/accuracy " in done.stdout

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
        before, *rows = list(csv.DictReader(file))
    measured = {int(r["step"]): float(r["benchmark/held_out/accuracy"] or "nan") for r in rows}
    assert best["value"] == pytest.approx(max(measured[3], measured[4]), rel=1e-5)
    assert best["step"] == (4 if measured[4] > measured[3] else 3), "of equal ones the earlier"
    assert (before["step"], before["reward/mean"]) == ("0", "")
    assert before["benchmark/held_out/accuracy"]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4], "one row a step"
    for step, row in enumerate(rows, 1):
        assert math.isfinite(float(row["update/loss"]))
        rewards = [other["reward"] for other in rollouts if other["step"] == step]
        assert float(row["reward/mean"]) == pytest.approx(sum(rewards) / 16)

    assert (
        f"mean FormatReward on held_out: {summary['accuracy_before']['held_out']:.1%} before"
        in done.stdout
    )
    for name in (
        "steering_vectors.safetensors",
        "best.safetensors",
        "metrics.csv",
        "last.ckpt",
        "report.html",
    ):
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
    told = "not trainer.max_steps = 9: the callback EarlyStopping, which watches"
    assert told in done.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ended_early"] == f"{told} validation/accuracy, has stopped it"
    assert summary["num_steps"] == 6
    accuracies = {int(row["step"]): float(row["validation/accuracy"]) for row in rows}
    first = max(accuracies, key=lambda step: accuracies[step])  # the earliest of equal ones
    assert (summary["best"]["metric"], summary["best"]["step"]) == ("validation/accuracy", first)
    assert load_vectors(folder / "best.safetensors").metadata["step"] == str(first)
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


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


def test_a_learning_rate_far_too_high_is_told_at_once_and_again_at_the_end(
    config, run, tmp_path: Path
) -> None:
    config["model"]["optimizer"]["init_args"]["lr"] = 1000.0
    config["trainer"].update(callbacks=[], max_steps=2)
    done = run(config)
    assert done.returncode == 0, done.stderr
    told = "times as large as the stream"
    assert done.stderr.count(told) == 1, "behind the first step"
    assert "the learning rate 1000 is too high" in done.stderr
    (warning,) = json.loads((tmp_path / "runs/run-1/summary.json").read_text())["warnings"]
    assert told in warning
    assert f"warning: {warning}" in done.stdout
    assert warning in (tmp_path / "runs/run-1/report.html").read_text()
