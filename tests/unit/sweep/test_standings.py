"""What the bar and the tables say about experiments, with rewards worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning.sweep.lanes import State
from steer_lightning.sweep.standings import (
    Accuracy,
    Standing,
    Status,
    final_table,
    in_short,
    live_table,
    steps,
)
from tests.made_up_step import make_step


def standing(name: str, total: float = 10, accuracy: Accuracy | None = None) -> Standing:
    lane = SimpleNamespace(state=State.WAITING, error=None)
    return Standing(
        name=name,
        module=SimpleNamespace(lane=lane, last_step=None),  # type: ignore[arg-type]
        trainer=SimpleNamespace(global_step=0, estimated_stepping_batches=total),  # type: ignore[arg-type]
        accuracy=lambda: accuracy or {},
        folder=f"runs/{name}/run-1",
    )


def train(one: Standing, *rewards: float) -> None:
    module: Any = one.module
    trainer: Any = one.trainer
    for reward in rewards:
        trainer.global_step += 1
        module.last_step = replace(make_step(), rewards=torch.full((2, 2), reward))
        one.look()


def end(one: Standing, error: BaseException | None = None) -> None:
    one.module.lane.state, one.module.lane.error = State.ENDED, error
    one.look()


def test_the_reward_is_the_mean_of_the_last_five_steps() -> None:
    one = standing("one")
    one.look()
    assert (one.reward, one.status, one.total) == (None, Status.WAITING, None)
    train(one, 0.0, 1.0, 1.0, 0.5, 0.5, 0.5)
    one.look()  # without a further step
    assert one.reward == pytest.approx(3.5 / 5)
    train(one, float("nan"), float("inf"))
    assert one.reward == pytest.approx(3.5 / 5), "a step without a finite reward counts nothing"
    assert (one.step, one.total, one.status) == (8, 10, Status.TRAINING)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, Status.DONE),
        (SystemExit(143), Status.STOPPED),
        (KeyboardInterrupt(), Status.STOPPED),
        (FloatingPointError("NaN"), Status.FAILED),
    ],
)
def test_an_ended_experiment_has_no_further_steps(
    error: BaseException | None, status: Status
) -> None:
    one = standing("one")
    train(one, 0.5, 0.5)
    end(one, error)
    assert (one.status, one.step, one.total) == (status, 2, 2)
    assert (one.reward is None) == (status is Status.FAILED)


def test_steps_are_those_of_all_experiments() -> None:
    every = [standing("a", 10), standing("b", 6), standing("c", 8)]
    assert steps(every) == (0, None)
    train(every[0], 0.1, 0.1)
    train(every[1], 0.1)
    assert steps(every) == (3, 26), "an experiment that has not begun counts as the longest"
    train(every[2], 0.1)
    end(every[1], KeyError("x"))
    assert steps(every) == (4, 19)
    train(endless := standing("d", float("inf")), 0.1)
    assert steps([*every, endless]) == (5, None)


def test_the_short_text_has_best_median_and_failures() -> None:
    every = [standing("a"), standing("x" * 40), standing("c"), standing("d"), standing("e")]
    assert in_short(every) == ""
    for one, reward in zip(every, (0.25, 0.75, 0.5, 0.3125), strict=False):
        train(one, reward)
    told = f"best reward 0.75 ({'x' * 29}...), median 0.406"
    assert in_short(every) == told
    end(every[2], KeyError("why"))
    assert in_short(every) == f"best reward 0.75 ({'x' * 29}...), median 0.312, 1 failed"


def five() -> list[Standing]:
    every = [standing(f"e{k}", 20, {"accuracy": (0.25, k / 10)}) for k in range(4)]
    for one, reward in zip(every, (0.5, 0.125, 0.75), strict=False):
        train(one, reward)
    end(failed := standing("bad\nname", 20), KeyError("why"))
    return [*every, failed]


def test_the_live_table_keeps_the_order_of_the_experiments() -> None:
    assert live_table(five(), most=9) == [
        "experiment  step  reward  accuracy  status",
        "e0          1/20     0.5      0.0%  training",
        "e1          1/20   0.125     10.0%  training",
        "e2          1/20    0.75     20.0%  training",
        "e3             0       -     30.0%  waiting",
        r"bad\nname    0/0       -         -  failed",
    ]
    assert [line.split()[0] for line in live_table(five(), most=2)] == [
        *("experiment", "e0", "e2", "..."),
    ]


def test_the_final_table_has_the_best_first_and_says_how_many_are_left_out() -> None:
    assert final_table(five(), most=3) == [
        "experiment  reward        accuracy  folder",
        "e2            0.75  25.0% -> 20.0%  runs/e2/run-1",
        "e0             0.5   25.0% -> 0.0%  runs/e0/run-1",
        "e1           0.125  25.0% -> 10.0%  runs/e1/run-1",
        "... and 2 further experiments with lower rewards, or without any",
    ]


def test_several_benchmarks_are_several_columns() -> None:
    one = standing("a", 4, {"gsm8k": (None, 0.5), "math": (0.125, 0.25)})
    train(one, 0.5)
    assert final_table([one]) == [
        "experiment  reward       gsm8k            math  folder",
        "a              0.5  - -> 50.0%  12.5% -> 25.0%  runs/a/run-1",
    ]
