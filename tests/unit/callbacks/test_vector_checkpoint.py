"""What `VectorCheckpoint` keeps: the last result, those of all writes, and the best one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.callbacks import VectorCheckpoint
from steer_lightning.steering import LoRA, Steering, SteeringVectors, load_steering
from steer_lightning.testing import save_tiny
from tests.made_up_step import make_step


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


def trained(folder: Path, rewards: list[float], **settings: bool) -> VectorCheckpoint:
    """Steps with these mean rewards, after the k-th of which all vectors are k; then the end."""
    module = SteeringModule(base=save_tiny(folder / "base"), steering=SteeringVectors())
    module.configure_model()
    trainer: Any = SimpleNamespace(
        default_root_dir=folder / "run", is_global_zero=True, callbacks=[], datamodule=None
    )
    callback = VectorCheckpoint(**settings)
    callback.setup(trainer, module, "fit")
    trainer.global_step = 0
    callback.on_fit_start(trainer, module)
    for step, reward in enumerate(rewards, 1):
        vectors = module.policy.steering
        assert isinstance(vectors, SteeringVectors)
        vectors.set_vectors(torch.full(vectors.vectors.shape, float(step)))
        trainer.global_step = step
        module.last_step = replace(make_step(), rewards=torch.full((2, 2), reward))
        callback.on_train_batch_end(trainer, module, None, None, 0)
        if step % 7 == 0:  # it goes on from a checkpoint
            resumed = VectorCheckpoint(**settings)
            trainer.default_root_dir = folder / f"run-{step}"
            resumed.setup(trainer, module, "fit")  # as Lightning does, before it restores
            resumed.load_state_dict(callback.state_dict())
            resumed.on_fit_start(trainer, module)
            callback = resumed
    callback.on_train_end(trainer, module)
    callback.on_fit_end(trainer, module)
    return callback


def test_the_best_vectors_by_reward_are_those_that_the_next_steps_liked(tmp_path: Path) -> None:
    # steps 1 to 45; those of 11 to 20 have 0.5, those of 21 to 28 1.0, and all later ones 0.0
    found = trained(tmp_path, [0.1] * 10 + [0.5] * 10 + [1.0] * 8 + [0.0] * 17)
    assert found.best is not None
    # after step 10: 0.5; after 20: (8 * 1.0 + 2 * 0.0) / 10 = 0.8; after 30: 0; 40 is not judged.
    # A mean over the steps before would have named step 30, whose vectors are broken
    assert (found.best.step, found.best.value) == (20, pytest.approx(0.8))
    best = load_steering(found.best_path)
    assert isinstance(best, SteeringVectors)
    assert set(best.vectors.flatten().tolist()) == {20.0}
    last = load_steering(found.path)
    assert isinstance(last, SteeringVectors)
    assert set(last.vectors.flatten().tolist()) == {45.0}


def test_of_equal_rewards_the_earlier_vectors_stay(tmp_path: Path) -> None:
    found = trained(tmp_path, [0.5] * 40)
    assert found.best is not None
    assert found.best.step == 10


def test_unscored_steps_are_left_out_and_nothing_is_kept_if_not_asked(tmp_path: Path) -> None:
    nan = float("nan")
    found = trained(tmp_path / "a", [nan] * 10 + [nan] * 9 + [0.3] + [nan] * 10)
    assert found.best is not None
    assert (found.best.step, found.best.value) == (10, pytest.approx(0.3))
    found = trained(tmp_path / "b", [0.5] * 25, keep_best=False)
    assert found.best is None
    assert not found.best_path.exists()
    assert found.path.exists()
