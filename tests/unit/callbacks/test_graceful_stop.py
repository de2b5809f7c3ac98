"""A run ends at a signal or a failure, and the other processes hear of it."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import steer_lightning.callbacks as inside
from steer_lightning.callbacks import graceful_stop


@pytest.fixture
def signals() -> Iterator[None]:
    """Handlers as they were, when the test is over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_failure_is_told_to_the_other_processes_though_a_callback_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graceful_stop, "PATIENCE", 0.01)
    told: queue.Queue[BaseException] = queue.Queue()
    trainer = SimpleNamespace(strategy=SimpleNamespace(on_exception=told.put))
    error = LookupError()
    inside.SignalWatch(inside.GracefulStop()).on_exception(trainer, None, error)
    assert told.get(timeout=10) is error, "while this thread does something else"


@pytest.mark.usefixtures("signals")
def test_a_sigterm_while_a_run_ends_is_no_collective_call() -> None:
    stop = inside.GracefulStop()
    stop._before = {signal.SIGTERM: lambda *_: None}  # Lightning's, which tells the other processes
    stop.on_exception(SimpleNamespace(), None, LookupError())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    stop._before = {signal.SIGTERM: signal.SIG_IGN}  # SLURM's, to a job that it puts back
    stop.on_exception(SimpleNamespace(), None, SystemExit())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
