"""Skipped updates are kept, and lost signal is told with its likely cause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.callbacks.guard import Guard, why_no_signal
from steer_lightning.rollout import Sampling
from tests.made_up_step import make_step

NAN = float("nan")


def test_skipped_batches_are_kept_and_stop_the_run_after_some(tmp_path: Path, caplog) -> None:
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True, global_step=0)
    guard = Guard(max_skipped=2, no_signal_steps=3)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    module = SteeringModule(sampling=Sampling(group_size=2))
    plain = make_step()
    bad = replace(plain, update=replace(plain.update, skipped=True))
    for number, found in enumerate((bad, plain, bad), 1):
        trainer.global_step, module.last_step = number, found
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    trainer.global_step = 4
    with pytest.raises(FloatingPointError, match="2 steps in a row"):
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    names = sorted(path.name for path in (tmp_path / "skipped").iterdir())
    assert names == ["step_000001.pt", "step_000003.pt", "step_000004.pt"]
    kept = torch.load(tmp_path / "skipped/step_000001.pt", weights_only=True)
    assert torch.equal(kept["completion_ids"], bad.rollouts.completion_ids)
    assert kept["texts"] == ["one", "two", "three", "four"]
    other = Guard()
    other.load_state_dict(guard.state_dict())
    assert other._skipped == 2


def test_lost_signal_is_told_once_with_its_likely_cause(tmp_path: Path, caplog) -> None:
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True, global_step=0)
    module = SteeringModule(sampling=Sampling(group_size=2))
    silent = replace(make_step(), rewards=torch.zeros(2, 2), advantages=torch.zeros(2, 2))
    guard = Guard(no_signal_steps=2)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    for found in (silent, make_step(), silent, silent, silent):
        module.last_step = found
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert caplog.text.count("no group has had signal for 2 steps") == 1
    assert "2 cut off, rewards from 0 to 0" in caplog.text
    assert "data.template" in why_no_signal(silent, 2)
    cut = replace(silent, finished=torch.zeros(2, 2).bool())
    assert "max_new_tokens" in why_no_signal(cut, 2)
    unscored = replace(silent, rewards=torch.full((2, 2), NAN))
    assert "answer column" in why_no_signal(unscored, 2)
    for outcome, cause in (
        ("timed_out", "deadline"),
        ("unparseable", "no mathematics"),
        ("wrong", "too hard"),
        ("right", "all is solved"),
    ):
        outcomes = {"MathReward": {outcome: 3, "no_answer": 1}}
        # the sum with other rewards says nothing about right or wrong
        rewards = torch.full((2, 2), 0.5)
        told = why_no_signal(replace(silent, outcomes=outcomes, rewards=rewards), 2)
        assert cause in told
        assert f"3 {outcome.replace('_', ' ')}" in told
        assert "1 without an answer" in told
