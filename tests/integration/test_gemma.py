"""The real Gemma 3 270M takes two steps: `pytest -m slow`, with the extra gemma3-270m installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from steer_lightning import load_vectors
from steer_lightning.cli import main

NUMBERS = range(3, 19)


@pytest.mark.slow
def test_two_steps_of_gemma_on_a_cpu(root: Path, gemma: Path, tmp_path: Path) -> None:
    problem = "Tom has {} apples and buys 4 more. How many apples has he got now?"
    rows = [
        {"question": problem.format(n), "answer": f"He has {n}+4={n + 4}.\n#### {n + 4}"}
        for n in NUMBERS
    ]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    command = [sys.executable, "-m", "steer_lightning", "fit"]
    command += [
        "--config",
        str(root / "configs/gsm8k/gemma3-270m-cpu.yaml"),
        "--trainer.max_steps=2",
    ]
    command += [
        f"--model.base={gemma}",
        f"--data.train.path={tmp_path}",
        f"--data.val.path={tmp_path}",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/gsm8k-gemma3-270m-cpu/run-1"
    vectors = load_vectors(folder / "steering_vectors.safetensors")
    assert vectors.vectors.shape == (18, 640)
    assert vectors.vectors.abs().max() > 0
    assert json.loads((folder / "summary.json").read_text())["num_steps"] == 2
    look_at(folder, tmp_path)


def look_at(folder: Path, tmp_path: Path) -> None:
    """The other commands on what the run has left."""
    assert (folder / "report.html").stat().st_size > 100_000
    vectors = str(folder / "steering_vectors.safetensors")
    assert main(["lens", "--vectors", vectors, "--final_norm", "--texts", "2 + 2 ="]) == 0
    found = json.loads((folder / "lens/lens.json").read_text())
    assert len(found["layers"]) == 18
    assert found["layers"][17]["norm"] > 0
    assert sum(found["first_token"]["up"][0][1:]) > 0

    source = {
        "class_path": "steer_lightning.data.Records",
        "init_args": {"path": str(tmp_path / "test.jsonl"), "limit": 2},
    }
    settings = {
        "benchmarks": {"apples": source},
        "sampling": {"group_size": 2, "max_new_tokens": 8},
        "verifier": {
            "class_path": "steer_lightning.rewards.FormatReward",
            "init_args": {"pattern": "[0-9]"},
        },
        "template": {
            "class_path": "steer_lightning.data.PlainTemplate",
            "init_args": {"text": "Question: {question}\nAnswer:"},
        },
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(settings))
    assert main(["evaluate", f"--config={tmp_path}/evaluate.yaml", "--vectors", vectors]) == 0
    results = json.loads((folder / "evaluation/results.json").read_text())
    assert {row["arm"] for row in results["rows"]} == {"base", "steered"}
    assert {row["num_problems"] for row in results["rows"]} == {2}

    output = str(tmp_path / "control-vector")
    assert main(["export", "--vectors", vectors, "--to", "gguf", "--output", output]) == 0
    assert json.loads((tmp_path / "control-vector/export.json").read_text())["format"] == "gguf"
    assert main(["report", str(folder), "--overwrite"]) == 0
    assert "apples" in (folder / "report.html").read_text(), "with the evaluation"
