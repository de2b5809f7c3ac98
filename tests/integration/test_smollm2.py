"""The real SmolLM2-135M-Instruct takes three steps on SVAMP: `pytest -m slow`.

The model is made by `scripts/prepare_smollm2.py`. It lies in `models/smollm2-135m-instruct`, or
where the environment variable SMOLLM2 says.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import gguf
import peft
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from steer_lightning import attach, export_vectors, load_model, load_vectors
from steer_lightning.model.policy import Policy

ROOT = Path(__file__).parents[2]
CONFIG = "configs/svamp/smollm2-135m-cpu.yaml"
ROUNDING = 1e-3
"""Most nats between a token's log-probabilities in engine and trainer, in float32."""


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps, on problems with one-digit answers."""
    folder = tmp_path_factory.mktemp("svamp")
    asked = "Tom had {} apples. He ate {} of them. How many apples does he have now?"
    pairs = [(n, k) for n in range(6, 10) for k in range(1, 6)]
    rows = [{"question": asked.format(n, k), "answer": f"{n - k}.0"} for n, k in pairs]
    for split, some in (("train", rows[4:]), ("test", rows[:4])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, some)))
    config = yaml.safe_load((ROOT / CONFIG).read_text())
    config["model"]["base"] = str(smollm2)
    config["trainer"]["max_steps"] = 3
    config["data"]["train"]["init_args"]["path"] = str(folder)
    config["data"]["val"]["init_args"] = {"split": "test", "path": str(folder)}
    config["data"]["batch_size"] = 4
    config["model"]["sampling"]["group_size"] = 8
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "steer_lightning", "fit", "--config", "config.yaml"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder / config["trainer"]["default_root_dir"] / "run-1"


@pytest.mark.slow
def test_three_steps_leave_the_base_and_find_vectors(run: Path, smollm2: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_steps"] == 3
    policy = Policy(str(smollm2), dtype="float32")
    policy.load()
    assert policy.base_sha256() == summary["base_sha256"]
    vectors = load_vectors(run / "steering_vectors.safetensors").vectors
    assert vectors.shape == (30, 576)
    assert vectors.abs().amax(1).min() > 0, "each layer has learned"


@pytest.mark.slow
def test_the_engine_has_the_log_probabilities_of_the_trainer(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as file:
        found = [float(row["mismatch/max"]) for row in csv.DictReader(file) if row["mismatch/max"]]
    assert found, "a step in which no group has a right and a wrong answer compares nothing"
    assert max(found) < ROUNDING


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PEFT
def test_each_export_is_the_steered_base(run: Path, smollm2: Path, tmp_path: Path) -> None:
    """Each is read back by the library that it is for."""
    saved = run / "steering_vectors.safetensors"
    for to in ("transformers", "peft", "gguf"):
        export_vectors(saved, to=to, output=tmp_path / to)
    model, tokenizer = load_model(str(smollm2), dtype="float32")
    ids = tokenizer("Tom had 9 apples. He ate 5 of them.", return_tensors="pt")
    vectors = load_vectors(saved)
    with torch.no_grad():
        plain = model(**ids).logits
        with attach(model, vectors):
            steered = model(**ids).logits
        assert torch.equal(plain, model(**ids).logits)
        moved = (steered - plain).abs().max()
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers").eval()
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "peft").eval()
        for exported in (whole, adapted):
            assert (exported(**ids).logits - steered).abs().max() < moved / 100
    file = gguf.GGUFReader(tmp_path / "gguf/steering_vectors.gguf")
    found = {tensor.name: torch.tensor(tensor.data) for tensor in file.tensors}
    assert sorted(found) == sorted(f"direction.{layer}" for layer in range(1, 30))
    for layer in range(1, 30):
        assert torch.equal(found[f"direction.{layer}"], vectors.vectors[layer])
