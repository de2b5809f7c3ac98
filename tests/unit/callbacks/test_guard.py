"""Skipped updates are kept, and lost signal is told with its likely cause."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.callbacks import RunSummary, VectorCheckpoint, guard
from steer_lightning.callbacks.best_result import Kept
from steer_lightning.callbacks.guard import (
    Guard,
    Shares,
    shares_of,
    size_in_stream,
    why_no_signal,
)
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.training.step import Step
from tests.made_up_step import make_step

NAN = float("nan")


def made_up_trainer(folder: Path) -> SimpleNamespace:
    """In its warm-up: the rate of the step is below the one that is set."""
    optimizer = SimpleNamespace(param_groups=[{"lr": 12.5, "initial_lr": 100.0}, {"lr": 1.0}])
    names = {"default_root_dir": str(folder), "is_global_zero": True, "global_step": 0}
    return SimpleNamespace(**names, optimizers=[optimizer], callbacks=[])


def vectors_of_size(size: float) -> SteeringVectors:
    """One vector of width 4 in a stream of size 2: its norm is size * 2 * sqrt(4)."""
    vectors = SteeringVectors(layers=[0]).shaped(width=4, num_layers=1)
    vectors.set_unit(torch.tensor([0.5]))
    vectors.stream.fill_(2)
    vectors.set_vectors(torch.full((1, 4), 2.0 * size))
    return vectors


def test_skipped_batches_are_kept_and_stop_the_run_after_some(tmp_path: Path, caplog) -> None:
    trainer = made_up_trainer(tmp_path)
    guard = Guard(max_skipped=2, no_signal_steps=3)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    module = SteeringModule(sampling=Sampling(group_size=2))
    module.policy.steering = vectors_of_size(0.1)
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
    assert other.state_dict() == guard.state_dict()


def test_a_checkpoint_from_before_warnings_were_kept_goes_on() -> None:
    guard = Guard()
    guard.load_state_dict({"skipped": 2, "silent": 3})
    expected = {"skipped": 2, "silent": 3, "warnings": {}, "first": None}
    assert guard.state_dict() == {**expected, "course": Guard().state_dict()["course"]}


def test_vectors_that_outgrow_the_stream_are_told_at_once_and_at_the_end(
    tmp_path: Path, caplog
) -> None:
    trainer = made_up_trainer(tmp_path)
    guard = Guard(no_signal_steps=10)
    trainer.callbacks = [guard]
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    module = SteeringModule(sampling=Sampling(group_size=2))
    module.policy.steering = vectors_of_size(0.1)
    module.last_step = make_step()
    for size in (2.9, 217.5, 363.4):
        module.policy.steering = vectors_of_size(size)
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert caplog.text.count("the vectors are 218 times as large") == 1, "2.9 is no reason yet"
    assert "363" not in caplog.text
    assert "the learning rate 100 is too high" in caplog.text
    (told,) = RunSummary._warnings(trainer)  # type: ignore[arg-type]
    assert told.startswith("the vectors are 363 times as large as the stream")
    assert "vectors/size_in_stream" in told


@pytest.mark.parametrize("scale", ["rms", "none"])
def test_lost_signal_is_laid_to_the_learning_rate_where_the_base_did_better(scale: str) -> None:
    bad = replace(make_step(), rewards=torch.zeros(2, 2), finished=torch.zeros(2, 2).bool())
    vectors = vectors_of_size(1.5)
    vectors.scale = scale  # type: ignore[assignment]
    size = size_in_stream(vectors)
    assert size == (pytest.approx(1.5) if scale == "rms" else None)
    well, ill = Shares(cut=0.25, no_answer=0.0), Shares(cut=0.75, no_answer=0.75)
    told = why_no_signal(bad, 10, well, size, 100.0)
    assert "learning rate 100" in told
    if scale == "rms":
        assert "too large, 1.5 times the stream" in told
        assert "max_new_tokens" not in told
        assert "1.5 times" in why_no_signal(bad, 10, ill, size, 100.0)
        assert "max_new_tokens" in why_no_signal(bad, 10, ill, 0.9, 100.0)
    else:
        assert "in the first step 25.0% were cut off and 0.0% without an answer" in told
        told = why_no_signal(bad, 10, ill, size, 100.0)
        assert "Likely cause: answers are cut off before they end" in told
    solved = replace(bad, outcomes={"MathReward": {"right": 4}})
    assert "all problems are solved" in why_no_signal(solved, 10, ill, 1.5, 100.0)
    outcomes = {"MathReward": {"no_answer": 3, "right": 0}}
    silent = replace(bad, outcomes=outcomes, finished=torch.ones(2, 2).bool())
    assert shares_of(silent) == (0.0, 0.75, 0.0)
    told = why_no_signal(silent, 10, well, None, 0.5)
    assert "broken the model" in told
    assert "max_new_tokens" not in told
    assert "data.template" in why_no_signal(silent, 10, ill, None, 0.5)


def test_a_reward_that_all_completions_earn_is_learned_and_no_matter_of_length() -> None:
    """Seen with `FormatReward` and completions that always run to the limit of tokens."""
    rewards = torch.tensor([[1.0, 1.0], [1.0, NAN]])
    cut = replace(make_step(), rewards=rewards, finished=torch.zeros(2, 2).bool())
    assert shares_of(cut) == (1.0, 0.0, 1.0)
    told = why_no_signal(cut, 10, Shares(cut=1.0, no_answer=0.0, reward=0.25))
    assert "Likely cause: all completions earn the same reward, 1, and more than the 0.25" in told
    for first in (Shares(1.0, 0.0, 1.0), Shares(1.0, 0.0), None):  # no better than at first
        assert "max_new_tokens" in why_no_signal(cut, 10, first)
    mixed = replace(cut, rewards=torch.tensor([[1.0, 1.0], [0.5, 0.5]]))
    assert "max_new_tokens" in why_no_signal(mixed, 10, Shares(1.0, 0.0, 0.25))
    unscored = replace(cut, rewards=torch.full((2, 2), NAN))
    assert "answer column" in why_no_signal(unscored, 10, Shares(1.0, 0.0, 0.25))


def test_lost_signal_is_told_once_with_its_likely_cause(tmp_path: Path, caplog) -> None:
    trainer = made_up_trainer(tmp_path)
    module = SteeringModule(sampling=Sampling(group_size=2))
    module.policy.steering = vectors_of_size(0.1)
    silent = replace(make_step(), rewards=torch.zeros(2, 2), advantages=torch.zeros(2, 2))
    guard = Guard(no_signal_steps=2)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    for found in (silent, make_step(), silent, silent, silent):
        module.last_step = found
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert caplog.text.count("no group has had signal for 2 steps") == 1
    assert "no group has had signal for 3 steps" in guard.warnings["signal"], "for the end"
    assert "2 cut off, rewards from 0 to 0" in caplog.text
    assert "data.template" in why_no_signal(silent, 2)
    cut = replace(silent, finished=torch.zeros(2, 2).bool())
    assert "max_new_tokens" in why_no_signal(cut, 2)
    unscored = replace(silent, rewards=torch.full((2, 2), NAN))
    assert "answer column" in why_no_signal(unscored, 2)
    for outcome, cause in (
        ("timed_out", "deadline"),
        ("unparseable", "is not mathematics"),
        ("wrong", "too hard"),
        ("right", "all problems are solved"),
    ):
        outcomes = {"MathReward": {outcome: 3, "no_answer": 1}}
        # the sum with other rewards says nothing about right or wrong
        rewards = torch.full((2, 2), 0.5)
        told = why_no_signal(replace(silent, outcomes=outcomes, rewards=rewards), 2)
        assert cause in told
        assert f"3 {outcome.replace('_', ' ')}" in told
        assert "1 without an answer" in told


def with_reward(value: float, prompts: int = 16) -> Step:
    """A step in which every completion has the same reward, and the entropy is 1 - value / 2."""
    rewards = torch.full((prompts, 2), value)
    tokens = torch.full((prompts, 2), 10)
    sums = -(1 - value / 2) * tokens.double()
    signal = torch.ones(prompts, 2)
    return replace(
        make_step(),
        rewards=rewards,
        num_tokens=tokens,
        logprob_sums=sums,
        advantages=signal,
        takes_part=torch.ones(prompts, 2).bool(),
        finished=torch.ones(prompts, 2).bool(),
    )


@pytest.mark.parametrize("stops", [False, True])
def test_a_collapse_is_told_once_and_stops_the_run_if_asked(
    stops: bool, tmp_path: Path, caplog
) -> None:
    keeper = VectorCheckpoint()
    trainer = made_up_trainer(tmp_path)
    trainer.should_stop, trainer.callbacks = False, [keeper]
    if stops:
        keeper.best = Kept(step=2, metric="reward/mean", value=0.8)
    guard = Guard(stop_on_collapse=stops)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    module = SteeringModule(sampling=Sampling(group_size=2))
    module.policy.steering = vectors_of_size(0.1)
    stopped = []
    for number, value in enumerate((0.2, 0.8, 0.8, 0.0, 0.0, 0.0, 0.0), 1):
        trainer.global_step, module.last_step = number, with_reward(value)
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        stopped.append(trainer.should_stop)
        # what a resumed run does between any two steps
        resumed = Guard(stop_on_collapse=stops)
        resumed.setup(trainer, None, "fit")  # type: ignore[arg-type]
        resumed.load_state_dict(guard.state_dict())
        guard = resumed
    # best window: 0.6 of the first three steps, 48 prompts; (0.8 + 0 + 0) / 3 of the next is less
    # than half, but v = 0.147 of 96 prompts makes 5.5 deviations 0.43, and only 0.33 are lost
    assert stopped == [False] * 5 + [stops] * 2
    assert caplog.text.count("the reward has collapsed") == 1
    told = guard.warnings["reward"]
    assert told.startswith("step 6: the reward has collapsed, from 0.6 to 0 (")
    assert "the entropy rose from 0.7 to 1" in told
    assert "model.optimizer's lr 20," in told, "a fifth of the rate that is set"
    assert ("result so far, of step 2, is kept" if stops else "No result from before") in told


def test_the_how_to_page_quotes_the_causes() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/reward-stays-0.md").read_text()
    table = page.partition("| `Likely cause: ...`")[2].partition("\n\n")[0]
    quoted = [
        cause
        for line in table.splitlines()[2:]
        for cause in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    ]
    assert len(quoted) == 11
    known = "".join(re.findall(r'"([^"\n]*)"', inspect.getsource(guard)))
    assert [cause for cause in quoted if cause not in known] == []


def test_signal_that_takes_no_part_is_none(tmp_path: Path, caplog) -> None:
    """All completions are cut off and masked, so that their advantages teach nothing."""
    masked = replace(
        make_step(),
        rewards=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        advantages=torch.tensor([[1.0, -1.0], [1.0, -1.0]]),
        finished=torch.zeros(2, 2).bool(),
        takes_part=torch.zeros(2, 2).bool(),
        outcomes={"MathReward": {"right": 3}},
    )
    trainer = made_up_trainer(tmp_path)
    guard = Guard(no_signal_steps=2)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    module = SteeringModule(sampling=Sampling(group_size=2))
    module.policy.steering = vectors_of_size(0.1)
    one = torch.tensor([[True, False], [False, False]])
    for takes_part in (masked.takes_part, one, masked.takes_part):
        module.last_step = replace(masked, takes_part=takes_part)
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert "signal" not in guard.warnings, "one completion took part in between"
    guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert "Likely cause: the rewards differ" in guard.warnings["signal"]
    assert "set model.mask_overlong: false" in caplog.text
