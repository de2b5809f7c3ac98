"""A folder with what a run leaves for the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from steer_lightning import save_vectors

CONFIG = {
    "seed_everything": 3,
    "model": {
        "sampling": {"group_size": 16, "temperature": 1.0},
        "rewards": [
            {"reward": {"class_path": "steer_lightning.rewards.MathReward"}, "weight": 1.0},
            {"reward": "my_rewards.brevity|x", "weight": 0.2},
        ],
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001, "eps": None}},
    },
    "data": {"train": {"class_path": "steer_lightning.data.GSM8K", "init_args": {"path": None}}},
}
SUMMARY = {
    "accuracy_before": {"gsm8k": 0.25},
    "accuracy_after": {"gsm8k": 0.625, "math": 0.5},
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run-1"
    vectors = torch.ones(28, 1536)
    save_vectors(vectors, folder / "steering_vectors.safetensors", base_model="Qwen/Q", step=315)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "rollouts.parquet").write_text("stays here")
    return folder
