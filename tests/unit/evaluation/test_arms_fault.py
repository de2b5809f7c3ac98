"""The names of arms."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.evaluation.arms import load_files
from steer_lightning.steering import LoRA, SteeringVectors
from steer_lightning.testing import tiny_model


def test_files_lose_their_ending_and_folders_keep_their_whole_name(tmp_path: Path) -> None:
    model = tiny_model()
    lora, vectors = LoRA(rank=1), SteeringVectors()
    for steering in (lora, vectors):
        steering.build(model)
    run, adapter, file = tmp_path / "lr-0.1", tmp_path / "lr-0.2", tmp_path / "half.safetensors"
    vectors.save(run / vectors.file_name, base_model="tiny")
    lora.save(adapter, base_model="tiny")
    vectors.save(file, base_model="tiny")
    found = load_files([str(run), str(adapter), str(file)])
    assert {name: type(steering) for name, steering in found.items()} == {
        "lr-0.1": SteeringVectors,
        "lr-0.2": LoRA,
        "half": SteeringVectors,
    }
