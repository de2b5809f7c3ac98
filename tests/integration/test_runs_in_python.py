"""Callbacks in a notebook: objects that serve several runs, and calls that are no training."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from steer_lightning import ConfigError, PromptDataModule, SteeringModule
from steer_lightning.callbacks import (
    BenchmarkEval,
    GracefulStop,
    Guard,
    LastCheckpoint,
    LensCallback,
    RunSummary,
    VectorCheckpoint,
)
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.rewards import FormatReward, MathReward, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors, load_steering
from steer_lightning.testing import save_tiny
from steer_lightning.types import Completion
from tests.unit.training.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")
EASY = WeightedReward(reward=FormatReward("."))
HARD = WeightedReward(reward=FormatReward(r"\d{30}"))


def module_in(folder: Path, reward: WeightedReward = EASY, **settings: Any) -> SteeringModule:
    return SteeringModule(
        base=save_tiny(folder, "qwen2"),
        sampling=Sampling(group_size=2, max_new_tokens=4),
        rewards=[reward],
        **settings,
    )


def data_of(num_problems: int = 4) -> PromptDataModule:
    source = Arithmetic(num_problems=num_problems)
    template = PlainTemplate("{question}=")
    return PromptDataModule(train=source, val=source, template=template, batch_size=4)


def fit(
    folder: Path, module: SteeringModule, callbacks: Sequence[Callback], steps: int = 2, **more: Any
) -> Any:
    options = {"max_steps": steps, "max_epochs": -1, "callbacks": list(callbacks), **more}
    options["enable_checkpointing"] = any(isinstance(x, LastCheckpoint) for x in callbacks)
    trainer = quiet_trainer(default_root_dir=folder, **options)
    trainer.fit(module, data_of())
    return trainer


def test_a_callback_takes_nothing_from_the_run_before(tmp_path: Path) -> None:
    callbacks = [
        guard := Guard(no_signal_steps=1),
        vectors := VectorCheckpoint(every_n_steps=1),
        evaluation := BenchmarkEval({"sums": Arithmetic(num_problems=2)}, every_n_steps=1),
        summary := RunSummary(),
        lens := LensCallback(every_n_steps=1, num_prompts=0),
        last := LastCheckpoint(),
        stop := GracefulStop(),
    ]
    fit(tmp_path / "one", module_in(tmp_path / "base"), callbacks, steps=3)
    assert guard.warnings, "all rewards are equal"
    assert vectors.best is not None
    first = vectors.best
    tokens = summary.state_dict()["tokens"]
    before = signal.getsignal(signal.SIGINT)
    stop.request(signal.SIGTERM)
    stop.on_exception(None, None, KeyboardInterrupt())  # type: ignore[arg-type]
    signal.signal(signal.SIGINT, before)
    seen: list[dict[str, Any]] = []

    class Watch(Callback):
        def on_fit_start(self, *args: object) -> None:
            seen.append({callback: deepcopy(callback.state_dict()) for callback in callbacks})
            seen.append({"saved": last.saved_step, "warnings": dict(guard.warnings)})

    again = module_in(tmp_path / "base2")
    fit(tmp_path / "two", again, [*callbacks, Watch()], steps=1)  # and `stop` does not end it
    fresh = [Guard(), VectorCheckpoint(), BenchmarkEval({"sums": None}), LensCallback()]  # type: ignore[dict-item]
    for mine, new in zip([guard, vectors, evaluation, lens], fresh, strict=True):
        assert seen[0][mine] == new.state_dict(), type(mine)
    assert seen[1] == {"saved": 0, "warnings": {}}
    assert seen[0][summary]["tokens"] == 0
    assert 0 < summary.state_dict()["tokens"] < tokens
    assert [result.step for result in evaluation.results] == [0, 1]
    assert vectors.best is not None
    assert vectors.best is not first
    written = load_steering(tmp_path / "two/best.safetensors")
    assert isinstance(written, SteeringVectors)
    assert isinstance(again.policy.steering, SteeringVectors)
    assert torch.equal(written.vectors, again.policy.steering.vectors)


def test_a_validation_after_training_writes_nothing(tmp_path: Path) -> None:
    """It may measure other vectors, which `last.ckpt` and `best.safetensors` would hold then."""
    module, callbacks = module_in(tmp_path / "base"), [LastCheckpoint(), VectorCheckpoint()]
    run = tmp_path / "run"
    trainer = fit(run, module, callbacks, val_check_interval=1, check_val_every_n_epoch=None)
    files = [run / "checkpoints/last.ckpt", run / "best.safetensors"]
    before = [file.read_bytes() for file in files]
    other = module_in(tmp_path / "other")
    trainer.validate(other, data_of(), verbose=False)
    assert [file.read_bytes() for file in files] == before
    assert callbacks[1].best.step <= 2  # type: ignore[attr-defined]


def test_the_best_vectors_may_be_the_first_file_of_a_run(tmp_path: Path) -> None:
    callback = VectorCheckpoint(every_n_steps=100)
    fit(
        tmp_path / "new/run",
        module_in(tmp_path / "base"),
        [callback],
        val_check_interval=1,
        check_val_every_n_epoch=None,
    )
    assert callback.best is not None
    assert callback.best_path == tmp_path / "new/run/best.safetensors"
    assert callback.best_path.is_file()


@pytest.mark.parametrize(
    ("rewards", "given", "place"),
    [
        ([MathReward("last_number"), FormatReward(".")], None, "last_number"),
        ([MathReward("last_number"), MathReward()], None, "boxed"),
        ([FormatReward(".")], None, "boxed"),
        ([MathReward("last_number")], MathReward("boxed_or_last_number"), "boxed_or_last_number"),
    ],
    ids=["that of the reward", "of several", "of none", "its own"],
)
def test_accuracy_is_judged_as_the_reward_is(
    rewards: list[Any], given: MathReward | None, place: str, tmp_path: Path
) -> None:
    module = SteeringModule(
        base=save_tiny(tmp_path / "base", "qwen2"),
        sampling=Sampling(group_size=2, max_new_tokens=4),
        rewards=[WeightedReward(reward=reward) for reward in rewards],
        verifier=given,
    )
    callback = BenchmarkEval({"sums": Arithmetic(num_problems=2)})
    own = BenchmarkEval({"form": Arithmetic(num_problems=2)}, verifier=FormatReward("."))
    fit(tmp_path / "run", module, [callback, own], steps=1)
    (part,) = module.verifier.parts.values()
    assert isinstance(part.reward, MathReward)
    assert part.reward.answer_in == place
    assert part.reward not in rewards, "each has its own processes"
    assert callback._judge is module.verifier
    assert callback.verdict == "accuracy"
    assert own.verdict == "mean FormatReward"


class Judge:
    """A judge elsewhere, which is down while there is a file of this name."""

    def __init__(self, down: Path, raises: bool = False, problem: str = "") -> None:
        self.down, self.raises, self.problem = down, raises, problem

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        is_down = self.down.exists() and all(self.problem in x.question for x in completions)
        if is_down and self.raises:
            raise ConnectionError("no answer")
        return [None if is_down else 1.0] * len(completions)


class Weather(Callback):
    """Makes the judge be down in some steps."""

    def __init__(self, down: Path, steps: set[int]) -> None:
        self.down, self.steps = down, steps

    def on_train_batch_start(self, trainer: Any, *args: object) -> None:
        if trainer.global_step + 1 in self.steps:
            self.down.touch()
        else:
            self.down.unlink(missing_ok=True)


def evaluated(folder: Path, down_in: set[int], raises: bool = False) -> BenchmarkEval:
    """Three steps with an evaluation after each."""
    judge = Judge(folder / "down", raises)
    source = Arithmetic(num_problems=70)  # as many as a reward needs to be at fault itself
    evaluation = BenchmarkEval({"sums": source}, every_n_steps=1, verifier=judge)
    if 0 in down_in:
        judge.down.touch()
    weather = Weather(judge.down, down_in)
    fit(folder / "run", module_in(folder / "base"), [weather, evaluation], steps=3)
    return evaluation


@pytest.mark.parametrize("raises", [False, True])
def test_a_judge_that_is_down_for_a_while_ends_no_run(
    raises: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        evaluation = evaluated(tmp_path, {1, 2}, raises)
    assert [result.step for result in evaluation.results] == [0, 3]
    told = [record.message for record in caplog.records if "no completion" in record.message]
    assert [text[:12] for text in told] == ["step 1, sums", "step 2, sums"]
    assert "failed or timed out each time" in told[0]


@pytest.mark.parametrize("step", [0, 3])
def test_a_run_needs_its_first_and_its_last_accuracy(step: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no completion could be scored\. The verifier could"):
        evaluated(tmp_path, {step})


@pytest.mark.parametrize("down_in", [{1, 2}, {3}])
def test_a_benchmark_that_is_left_out_makes_no_best_result(
    down_in: set[int], tmp_path: Path
) -> None:
    """The judge is down for the hard problems alone."""
    judge = Judge(tmp_path / "down", problem="-")
    easy = Arithmetic(num_problems=2, operations="+")
    hard = Arithmetic(num_problems=2, operations="-")
    evaluation = BenchmarkEval({"easy": easy, "hard": hard}, every_n_steps=1, verifier=judge)
    vectors, weather = VectorCheckpoint(), Weather(judge.down, down_in)
    callbacks = [weather, evaluation, vectors]
    module = module_in(tmp_path / "base")
    if 3 in down_in:
        with pytest.raises(ConfigError, match="no completion could be scored"):
            fit(tmp_path / "run", module, callbacks, steps=3)
        assert [x.step for x in evaluation.results if x.benchmark == "hard"] == [0, 1, 2]
        return
    fit(tmp_path / "run", module, callbacks, steps=3)
    assert [x.step for x in evaluation.results if x.benchmark == "easy"] == [0, 1, 2, 3]
    assert [x.step for x in evaluation.results if x.benchmark == "hard"] == [0, 3]
    assert vectors.best is not None
    assert vectors.best.step == 3, "the only step with both"
