"""What the best result is judged by, and how its files are written."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from steer_lightning import SteeringModule
from steer_lightning.callbacks import BenchmarkEval
from steer_lightning.callbacks.benchmark_eval import Result
from steer_lightning.callbacks.best_result import (
    SMOOTHED,
    VALIDATION,
    Kept,
    benchmark_value,
    kept_now,
    metric_of,
    restored,
    state_of,
)
from steer_lightning.steering import (
    BitFit,
    FullFinetune,
    LoRA,
    LowRankVectors,
    Steering,
    SteeringVectors,
    find_result,
    load_steering,
)
from steer_lightning.testing import save_tiny


def evaluation(every_n_steps: int, names: list[str]) -> BenchmarkEval:
    found = BenchmarkEval(dict.fromkeys(names), every_n_steps)  # type: ignore[misc]
    found._prompts = {name: [] for name in names}
    return found


def trainer_with(*callbacks: object, **facts: object) -> SimpleNamespace:
    return SimpleNamespace(callbacks=list(callbacks), datamodule=None, global_step=20, **facts)


def result(name: str, step: int, accuracy: float) -> Result:
    return Result(
        benchmark=name,
        step=step,
        accuracy=accuracy,
        completion_length=1.0,
        cut_off_share=0.0,
        num_unscored=0.0,
    )


@pytest.mark.parametrize(
    ("value", "other", "better"),
    [
        (0.5, None, True),
        (0.5, 0.4, True),
        (0.5, 0.5, False),  # the earlier one stays
        (-1.0, -2.0, True),
        (math.nan, None, False),
        (math.inf, 0.1, False),
    ],
)
def test_only_a_higher_value_replaces_the_best(
    value: float, other: float | None, better: bool
) -> None:
    best = None if other is None else Kept(step=10, metric="m", value=other)
    assert Kept(step=20, metric="m", value=value).is_better_than(best) is better
    if other is not None and math.isfinite(value):
        assert Kept(step=20, metric="another", value=value).is_better_than(best)


def test_accuracy_counts_before_rewards() -> None:
    once, often = evaluation(0, ["a"]), evaluation(10, ["b"])
    two = evaluation(20, ["d", "c"])
    assert metric_of(trainer_with(once)) == SMOOTHED, "measured only at both ends"
    assert metric_of(trainer_with(once, often)) == "benchmark/b/accuracy"
    expected = "mean of benchmark/b/accuracy, benchmark/c/accuracy, benchmark/d/accuracy"
    assert metric_of(trainer_with(often, two)) == expected
    facts = {"limit_val_batches": 1.0, "val_check_interval": 5, "check_val_every_n_epoch": None}
    facts |= {"max_epochs": None, "max_steps": 9, "limit_train_batches": 1.0}
    with_val = trainer_with(**facts)
    with_val.datamodule = SimpleNamespace(prompts={"train": [0] * 8, "val": [0]}, batch_size=1)
    assert metric_of(with_val) == VALIDATION
    with_val.max_steps = 4
    assert metric_of(with_val) == SMOOTHED


def test_the_value_is_the_mean_over_benchmarks_that_were_all_measured_at_the_step() -> None:
    often, two = evaluation(10, ["b"]), evaluation(20, ["c", "d"])
    often.results = [result("b", 10, 0.9), result("b", 20, 0.6)]
    assert benchmark_value(trainer_with(often, two)) is None  # type: ignore[arg-type]
    two.results = [result("c", 20, 0.3), result("d", 20, 0.9)]
    assert benchmark_value(trainer_with(often, two)) == pytest.approx(0.6)  # type: ignore[arg-type]
    assert benchmark_value(trainer_with(evaluation(0, ["a"]))) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "steering",
    [SteeringVectors(), LowRankVectors(rank=1), LoRA(rank=1), BitFit(), FullFinetune()],
    ids=lambda kind: type(kind).__name__,
)
def test_the_result_of_every_kind_is_kept_as_it_was(steering: Steering, tmp_path: Path) -> None:
    module = SteeringModule(base=save_tiny(tmp_path / "base", "qwen2"), steering=steering)
    module.configure_model()
    for parameter in steering.parameters():
        torch.nn.init.normal_(parameter)
    run = tmp_path / "run"
    run.mkdir()
    trainer = SimpleNamespace(global_step=40, is_global_zero=True)
    kept = kept_now(trainer, module, "m", run)  # type: ignore[arg-type]
    assert list(run.iterdir()) == [], "nothing half-written is left behind"
    then = run / "then" / steering.file_name
    steering.save(then, base_model=module.policy.base, revision=module.policy.commit, step=40)
    for parameter in steering.parameters():
        torch.nn.init.zeros_(parameter)
    kept.value = 0.25
    torch.save(state_of(kept), tmp_path / "state")
    again = restored(torch.load(tmp_path / "state", weights_only=True))
    assert again is not None
    best = run / f"best{then.suffix}"
    for _ in range(2):  # a better one replaces it
        again.write(best)
    found, expected = (load_steering(find_result(path)) for path in (best, then))
    assert type(found) is type(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    file = best / "adapter_model.safetensors" if best.is_dir() else best
    with safe_open(file, "pt") as opened:
        facts = {key: opened.metadata()[key] for key in ("step", "metric", "value")}
    assert facts == {"step": "40", "metric": "m", "value": "0.25"}


def test_only_the_first_process_keeps_files() -> None:
    trainer = SimpleNamespace(global_step=40, is_global_zero=False)
    kept = kept_now(trainer, None, "m", Path("nowhere"))  # type: ignore[arg-type]
    assert (kept.step, kept.files) == (40, {})
