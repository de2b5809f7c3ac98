"""Results of benchmarks while training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from steer_lightning import SteeringModule
from steer_lightning.callbacks.benchmark_eval import BenchmarkEval, Result
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
