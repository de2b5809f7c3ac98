"""Results of benchmarks while training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.callbacks.arm_results import ArmResult
from steer_lightning.callbacks.benchmark_eval import BenchmarkEval, Result
from steer_lightning.evaluation.ablation import ArmSettings
from steer_lightning.rollout import Sampling
from tests.no_eos import save_without_eos


def test_first_and_last_accuracy() -> None:
    callback = BenchmarkEval({"a": None, "b": None})  # type: ignore[dict-item]

    def result(name: str, number: int, accuracy: float) -> Result:
        return Result(
            benchmark=name,
            step=number,
            accuracy=accuracy,
            completion_length=1,
            cut_off_share=0,
            num_unscored=0,
        )

    callback.results = [
        result("a", 0, 0.1),
        result("b", 0, 0.2),
        result("a", 5, 0.3),
        result("b", 5, 0.4),
    ]
    assert callback.accuracy(last=False) == {"a": 0.1, "b": 0.2}
    assert callback.accuracy(last=True) == {"a": 0.3, "b": 0.4}
    assert callback.interval(last=True) == {"a": [None, None], "b": [None, None]}
    callback.results[2] = replace(callback.results[2], accuracy_low=0.25, accuracy_high=0.35)
    assert callback.interval(last=True) == {"a": [0.25, 0.35], "b": [None, None]}
    other = BenchmarkEval({"a": None})  # type: ignore[dict-item]
    other.load_state_dict(callback.state_dict())
    assert other.results == callback.results


def test_results_of_arms_are_kept_and_need_not_be_in_a_checkpoint() -> None:
    callback = BenchmarkEval({"a": None}, arms={"base": ArmSettings(scale=0)})  # type: ignore[dict-item]
    figures = {"accuracy": 0.5, "completion_length": 1, "cut_off_share": 0, "num_unscored": 0}
    for step, difference in ((0, 0.0), (5, -0.25)):
        result = ArmResult(benchmark="a", arm="base", step=step, difference=difference, **figures)
        callback.arm_results.append(result)
    assert callback.arm_figures() == {"a": {"base": {**figures, "difference": -0.25}}}
    without = BenchmarkEval({"a": None})  # type: ignore[dict-item]
    assert without.state_key == callback.state_key, "arms can be added to a run that goes on"
    callback.load_state_dict(state := callback.state_dict())
    assert len(callback.arm_results) == 2
    del state["arm_results"]
    callback.load_state_dict(state)
    assert callback.arm_results == []
    assert without.arm_figures() == {}


def test_arms_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match=r"arms = \{\}: must name at least one arm"):
        BenchmarkEval(arms={})


def test_two_benchmark_evals_keep_their_own_results() -> None:
    one, two = BenchmarkEval({"a": None}), BenchmarkEval({"b": None})  # type: ignore[dict-item]
    again = BenchmarkEval({"a": None}, sampling=Sampling(group_size=4))  # type: ignore[dict-item]
    assert len({one.state_key, two.state_key, again.state_key}) == 3


@pytest.mark.parametrize(
    ("sampling", "told"),
    [(Sampling(), True), (Sampling(stop_strings=["a"]), False), (None, False)],
)
def test_answers_that_nothing_ends_are_told(
    tmp_path: Path, sampling: Sampling | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    module = SteeringModule(base=save_without_eos(tmp_path))
    module.policy.load()
    callback = BenchmarkEval({"a": None}, sampling=sampling)  # type: ignore[dict-item]
    callback.on_fit_start(None, module)  # type: ignore[arg-type]
    assert ("eos_token_ids or stop_strings of BenchmarkEval.sampling." in caplog.text) == told
    assert bool(caplog.text) == told, "the module tells of its own settings"
