"""Every algorithm by YAML: it runs, and goes on bit for bit."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning import load_vectors
from steer_lightning.callbacks.checkpoint_file import checksum, load_checkpoint
from steer_lightning.cli import main

OVERLAYS = sorted((Path(__file__).parents[2] / "configs/algorithms").glob("*.yaml"))


def fit(config: dict[str, Any], folder: Path, *words: str) -> None:
    """In this process."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path), *words]) == 0


def rows(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        read = [row for row in csv.DictReader(file) if row["reward/mean"]]
    return [{key: float(value) for key, value in row.items() if value} for row in read]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_algorithm_takes_steps(
    overlay: Path, config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["model"]["sampling"]["max_new_tokens"] = 49  # dapo.yaml: free up to 48
    config["trainer"].update(max_steps=2, callbacks=[])
    monkeypatch.chdir(tmp_path)
    fit(config, tmp_path, "--config", str(overlay))
    run = tmp_path / "runs/run-1"
    found = rows(run)
    assert [row["step"] for row in found] == [1, 2]
    assert all(math.isfinite(row["update/loss"]) for row in found)
    assert load_vectors(run / "steering_vectors.safetensors").vectors.abs().max() > 0
    settings = yaml.safe_load(overlay.read_text())["model"]
    if overlay.stem == "upft":
        assert "mismatch/max" not in found[0]
        return
    samples_like_trainer = max(row["mismatch/max"] for row in found) < 1e-4
    assert samples_like_trainer == ("quantization" not in settings)
    if "dynamic_sampling" in settings:
        assert all(row["update/num_completions"] == 16 for row in found)
        assert all(row["reward/LengthReward"] <= 0 for row in found)
    assert all(("reward/kl" in row) == ("kl_in_reward" in settings) for row in found)
    assert all(("update/kl" in row) == (overlay.stem == "grpo") for row in found)
    loss = settings.get("loss", {"init_args": {}})  # max_rl.yaml keeps the default, without a clip
    objective = loss["init_args"].get("objective", {}).get("class_path", "")
    clips = objective.endswith(("Clip", "CISPO"))  # best_of.yaml has one without
    assert all(("update/clip_share" in row) == clips for row in found)


EVERYTHING = {
    "advantage": {"class_path": "steer_lightning.advantages.GRPO"},
    "loss": {
        "class_path": "steer_lightning.losses.PolicyGradient",
        "init_args": {
            "objective": {"class_path": "steer_lightning.losses.Clip"},
            "aggregation": "steer_lightning.losses.TokenMean",
            "correction": {"class_path": "steer_lightning.losses.TruncatedImportance"},
            "terms": [
                {
                    "class_path": "steer_lightning.losses.KLToBase",
                    "init_args": {"weight": 0.1, "estimator": "steer_lightning.losses.k2"},
                },
                {
                    "class_path": "steer_lightning.losses.EntropyBonus",
                    "init_args": {"weight": 0.01},
                },
            ],
        },
    },
    "updates": {"num_passes": 2, "num_mini_batches": 2},
    "dynamic_sampling": {"max_rounds": 3},
    "mask_overlong": True,
    "kl_in_reward": {"weight": 0.01},
    "steering": {"layers": [1, 2]},
}
GUIDED = {
    "advantage": {"class_path": "steer_lightning.advantages.GRPO"},
    "loss": {
        "class_path": "steer_lightning.losses.PolicyGradient",
        "init_args": {
            "objective": {"class_path": "steer_lightning.losses.Clip"},
            "correction": {"class_path": "steer_lightning.losses.TruncatedImportance"},
        },
    },
    "updates": {"num_passes": 2, "num_mini_batches": 2},
    "dynamic_sampling": {"max_rounds": 2},
    "guidance": {"text": "({answer}) {question}", "num_guided": 3},
    "mask_overlong": False,
}
RARE = "^[^a-z]*[a-c]"
"""Pattern that most completions of a random model do not have, so that groups fail."""
AVERAGE = {
    "advantage": {"class_path": "steer_lightning.advantages.MovingAverage"},
    "sampling": {"group_size": 1, "max_new_tokens": 6},
}


@pytest.mark.parametrize(
    "parts",
    [EVERYTHING, GUIDED, pytest.param(AVERAGE, marks=pytest.mark.slow)],
    ids=["everything", "guided", "moving average"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    parts: dict[str, Any], config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["model"].update(parts)
    config["data"]["order"] = {"class_path": "steer_lightning.data.ByPassRate"}
    # a third of the groups of this reward have no signal
    pattern = RARE if parts is GUIDED else "^[^a-z]*[a-m]"
    config["model"]["rewards"][0]["reward"]["init_args"] = {"pattern": pattern}
    monkeypatch.chdir(tmp_path)
    config["trainer"].update(max_steps=7, callbacks=[])  # 5 steps an epoch
    fit(config, tmp_path)
    fit(config, tmp_path, "--trainer.max_steps=3", "--ckpt_path=new")
    fit(config, tmp_path, "--ckpt_path=runs/run-2/checkpoints/last.ckpt")
    whole, half, rest = (tmp_path / f"runs/run-{k}" for k in (1, 2, 3))
    name = "steering_vectors.safetensors"
    assert torch.equal(load_vectors(rest / name).vectors, load_vectors(whole / name).vectors)
    ends = [load_checkpoint(run / "checkpoints/last.ckpt") for run in (rest, whole)]
    for key in ("state_dict", "optimizer_states", "PromptDataModule", "global_step"):
        assert checksum({key: ends[0][key]}) == checksum({key: ends[1][key]}), key
    drawn = [pq.read_table(run / "rollouts.parquet").to_pylist() for run in (whole, half, rest)]
    assert drawn[0] == drawn[1] + drawn[2]
    steps = [row["step"] for row in drawn[0]]
    assert set(steps) == set(range(1, 8)), "an optimizer step more does not make it another step"
    if parts is EVERYTHING:
        assert len({steps.count(step) for step in range(1, 8)}) > 1, "some steps were refilled"
        for step in range(1, 8):
            mine = [row for row in drawn[0] if row["step"] == step]
            assert len(mine) == 4 * len({row["prompt_id"] for row in mine}), "no prompt twice"
            assert len({row["prompt_id"] for row in mine if row["takes_part"]}) <= 4
        assert all(row["finished"] for row in drawn[0] if row["takes_part"])
    elif parts is GUIDED:
        guided = [row for row in drawn[0] if row["guided"]]
        assert {row["sample"] for row in guided} == {1, 2, 3}
        assert any(row["reward"] and row["takes_part"] for row in guided)
        assert not any(row["prompt"].startswith("(") for row in drawn[0]), "no hint in the prompt"
        found = rows(whole)
        assert {row["step"] for row in found if row["guidance/share"]} == {*range(1, 8)}
        assert all(row["guidance/ratio"] > 0 for row in found if "guidance/kl" in row)
    else:
        assert "advantage.total" in ends[0]["state_dict"]


def test_hints_bring_signal_to_groups_that_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", "quickstart", "--config", "algorithms/guide"]
    words += ["--data.batch_size=12", "--trainer.max_steps=1", "--trainer.callbacks=[]"]
    for more in ([], ["--model.guidance=null"]):
        assert main([*words, "--ckpt_path=new", *more]) == 0
    guided, plain = (rows(tmp_path / f"runs/quickstart/run-{k}")[0] for k in (1, 2))
    assert guided["reward/mean"] == plain["reward/mean"], "the same completions without hint"
    assert guided["guidance/reward"] > 2 * plain["reward/mean"]
    assert guided["reward/no_signal_share"] < plain["reward/no_signal_share"]
    assert guided["guidance/share"] == plain["reward/no_signal_share"]
