"""Why a run has ended, and how far it has come over several starts."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from steer_lightning.callbacks import RunSummary
from steer_lightning.callbacks.run_summary import why_ended


@pytest.mark.parametrize(
    ("steps", "most", "epoch", "epochs", "told"),
    [
        (7, 7, 1, None, ""),
        (7, -1, 1, 1, ""),  # no number of steps was set
        (0, 7, 0, None, ""),
        (5, 7, 1, 1, "trainer.max_epochs = 1 was reached"),
        (5, 7, 0, 1, "trainer.max_time or a callback ended the run"),
        (5, 7, 3, -1, "trainer.max_time or a callback ended the run"),
        (5, 7, 3, None, "trainer.max_time or a callback ended the run"),
    ],
)
def test_why_a_run_is_shorter_than_max_steps(
    steps: int, most: int, epoch: int, epochs: int | None, told: str
) -> None:
    trainer = SimpleNamespace(
        global_step=steps, max_steps=most, current_epoch=epoch, max_epochs=epochs
    )
    assert why_ended(trainer) == (told and f", not trainer.max_steps = 7: {told}")  # type: ignore[arg-type]


def test_a_callback_that_has_stopped_the_run_is_named() -> None:
    facts = {"current_epoch": 1, "max_epochs": 1, "stopped_by": "the callback Mine has stopped it"}
    told = ", not trainer.max_steps = 7: the callback Mine has stopped it"
    assert why_ended(SimpleNamespace(global_step=5, max_steps=7, **facts)) == told  # type: ignore[arg-type]
    assert why_ended(SimpleNamespace(global_step=7, max_steps=7, **facts)) == ""  # type: ignore[arg-type]
    told = ": the callback Mine has stopped it"
    assert why_ended(SimpleNamespace(global_step=5, max_steps=-1, **facts)) == told  # type: ignore[arg-type]


def test_a_resumed_run_goes_on_counting() -> None:
    summary = RunSummary()
    summary._start = time.perf_counter() - 5
    summary.load_state_dict({"tokens": 9, "rollout_seconds": 1.5, "seconds": 100.0})
    found = summary.state_dict()
    assert (found["tokens"], found["rollout_seconds"]) == (9, 1.5)
    assert 105 <= found["seconds"] < 110


def test_the_summary_says_what_each_benchmark_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    def evals(name: str, verdict: str) -> SimpleNamespace:
        measured = {
            "accuracy": lambda last: {name: 0.5} if last else {},
            "interval": lambda last: {},
            "arm_figures": dict,
        }
        return SimpleNamespace(verdict=verdict, **measured)

    found = [evals("sums", "accuracy"), evals("short", "mean brevity")]
    monkeypatch.setattr(RunSummary, "_evals", staticmethod(lambda trainer: found))
    steering = SimpleNamespace(num_trained=1)
    policy = SimpleNamespace(steering=steering, base="b", commit=None, base_bits=None)
    trainer, module = (
        SimpleNamespace(callbacks=[], global_step=0, max_steps=0),
        SimpleNamespace(policy=policy, seed=0),
    )
    summary = RunSummary()
    summary._start, summary._before = time.perf_counter(), None
    told = summary._summary(trainer, module)  # type: ignore[arg-type]
    assert told["verdicts"] == {"sums": "accuracy", "short": "mean brevity"}
    assert told["accuracy_after"] == {"sums": 0.5, "short": 0.5}
