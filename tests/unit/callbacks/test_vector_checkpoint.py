"""What `VectorCheckpoint(keep_all=True)` keeps, by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from steer_lightning import SteeringModule
from steer_lightning.callbacks import VectorCheckpoint
from steer_lightning.steering import LoRA, Steering, SteeringVectors, load_steering
from steer_lightning.testing import save_tiny


@pytest.mark.parametrize(
    ("steering", "latest", "kept"),
    [
        (SteeringVectors(), "steering_vectors.safetensors", "step_000010.safetensors"),
        (LoRA(rank=1), "lora_adapter", "step_000010"),
    ],
    ids=["vectors", "lora"],
)
def test_each_step_is_kept_under_a_name_of_its_kind(
    steering: Steering, latest: str, kept: str, tmp_path: Path
) -> None:
    module = SteeringModule(base=save_tiny(tmp_path / "base"), steering=steering)
    module.configure_model()
    run = tmp_path / "run"
    trainer = SimpleNamespace(default_root_dir=run, global_step=10, is_global_zero=True)
    callback = VectorCheckpoint(every_n_steps=10, keep_all=True)
    callback.setup(trainer, module, "fit")  # type: ignore[arg-type]
    callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert sorted(path.name for path in run.iterdir()) == [latest, "vectors"]
    assert [path.name for path in (run / "vectors").iterdir()] == [kept]
    assert (run / "vectors" / kept).is_dir() == (run / latest).is_dir()
    for path in (run / latest, run / "vectors" / kept):
        assert type(load_steering(path)) is type(steering)
