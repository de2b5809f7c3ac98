"""The service answers whatever comes from other threads, and outlives errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from steer_lightning.inference.service import Closed, Dead, Service, TooManyRequests
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import Event, LiveRequest
from steer_lightning.steering import SteeringVectors
from tests.live import Asked, ask, fly, live_flight

SECONDS = 60
"""Longer than any answer takes; only a fault lets a test wait for so long."""


@contextmanager
def service_on(flight: LiveFlight, max_requests: int = 100) -> Iterator[Service]:
    service = Service(flight, max_requests)
    try:
        yield service
    finally:
        service.close()


class Held:
    """Keeps the thread of the service in an answer, until it is let go."""

    def __init__(self, service: Service) -> None:
        self.asked = ask(most=2)
        self.has_begun, self.may_go = threading.Event(), threading.Event()
        self.asked.request.on_event = self._hold
        service.submit(self.asked.request)
        assert self.has_begun.wait(SECONDS)

    def _hold(self, event: Event) -> None:
        self.has_begun.set()
        assert self.may_go.wait(SECONDS)


def test_answers_to_many_threads_are_those_of_each_alone() -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering])
    models = [None, steering]

    def requests() -> list[Asked]:
        return [
            ask(f"prompt {k}", models[k % 2], scale=1 + k % 3, n=1 + k % 2, seed=k, most=8)
            for k in range(24)
        ]

    together, alone = requests(), requests()
    with service_on(flight) as service:
        own = [
            threading.Thread(target=service.submit, args=[one.request for one in together[k::4]])
            for k in range(4)
        ]
        for thread in own:
            thread.start()
        for thread in own:
            thread.join()
    assert service.num_open == 0
    fly(flight, alone)
    assert [x.answers for x in together] == [x.answers for x in alone]


def test_the_end_waits_for_answers_and_takes_no_more() -> None:
    scored = ask()
    scored.request.sampling = None
    asked = [ask(most=30, seed=k) for k in range(8)]
    with service_on(live_flight("llama")) as service:
        service.submit(scored.request, *(one.request for one in asked))
    assert all(one.answers[0][2] for one in asked)
    assert len(scored.scores.tokens) == len(scored.request.token_ids)
    with pytest.raises(Closed):
        service.submit(ask().request)


def test_too_many_requests_are_refused_together() -> None:
    asked = [ask(most=2) for _ in range(3)]
    with service_on(live_flight("llama"), max_requests=3) as service:
        held = Held(service)
        with pytest.raises(TooManyRequests, match="limit of 3"):
            service.submit(*(one.request for one in asked))
        assert service.num_open == 1
        service.submit(*(one.request for one in asked[1:]))
        held.may_go.set()
    assert [len(one.pieces) > 0 for one in asked] == [False, True, True]


def test_who_has_waited_too_long_is_told_and_who_has_gone_is_forgotten() -> None:
    late, gone, scored = ask(deadline=0.0), ask(), ask(deadline=0.0)
    scored.request.sampling = None
    with service_on(live_flight("llama")) as service:
        held = Held(service)
        service.submit(late.request, gone.request, scored.request)
        gone.request.is_cancelled = True
        held.may_go.set()
    assert isinstance(late.error, TimeoutError)
    assert isinstance(scored.error, TimeoutError)
    assert late.pieces == gone.events == []
    assert service.num_open == 0


def order_of_ends(asked: dict[str, Asked]) -> list[str]:
    """A list to which names are added as completions end."""
    ends: list[str] = []
    for name, one in asked.items():

        def note(event: Event, name: str = name, one: Asked = one) -> None:
            one.events.append(event)
            if getattr(event, "finish", None):
                ends.append(name)

        one.request.on_event = note
    return ends


def test_those_who_wait_take_turns() -> None:
    """A request with many completions neither keeps others out nor waits until they are done."""
    asked = {"many": ask(n=4, most=9)}
    asked |= {f"one-{k}": ask(seed=k, most=9, sampling={"eos_token_ids": []}) for k in range(3)}
    ends = order_of_ends(asked)
    flight = live_flight("llama", max_rows=1)
    with service_on(flight) as service:
        held = Held(service)
        service.submit(*(one.request for one in asked.values()))
        held.may_go.set()
    assert ends == ["many", "one-0", "one-1", "one-2", "many", "many", "many"]
    alone = ask(n=4, most=9)
    fly(live_flight("llama"), [alone])
    assert asked["many"].answers == alone.answers


def test_a_cancelled_request_gives_its_rows_to_those_who_wait() -> None:
    flight = live_flight("llama", max_rows=1)
    gone, other = ask(n=5, most=40), ask(most=3)

    def leave(event: Event) -> None:
        gone.events.append(event)
        gone.request.is_cancelled = True

    gone.request.on_event = leave
    with service_on(flight) as service:
        service.submit(gone.request, other.request)
    assert other.answers[0][2]
    assert len(gone.events) == 2, "as many as the first pass draws"
    assert service.num_open == 0


def test_a_request_that_can_not_enter_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flight = live_flight("llama")
    take, wrong, right = flight.take, ask(), ask()

    def refuse(request: LiveRequest) -> bool:
        if request is wrong.request:
            raise MemoryError("no room for random numbers")
        return take(request)

    monkeypatch.setattr(flight, "take", refuse)
    with service_on(flight) as service:
        service.submit(wrong.request, right.request)
    assert isinstance(wrong.error, MemoryError)
    assert right.answers[0][2]
    assert service.num_open == 0
    assert "no room for random numbers" in caplog.text


@pytest.mark.parametrize("at", ["step", "drop"])
def test_a_service_that_has_died_says_so_to_everybody(
    at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flight = live_flight("llama", max_rows=1)

    def die() -> None:
        raise SystemExit if at == "step" else MemoryError("in the end")

    def fail() -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(flight, "step", die if at == "step" else fail)
    monkeypatch.setattr(flight, "drop", die)
    scored, asked = ask(), [ask(seed=k) for k in range(3)]
    scored.request.sampling = None
    service = Service(flight)
    service.check()
    service.submit(*(one.request for one in asked), scored.request)
    service._thread.join(SECONDS)
    name = "SystemExit" if at == "step" else "MemoryError"
    for one in asked:
        assert isinstance(one.error, Dead)
        assert f"has died ({name})" in str(one.error)
    assert scored.events, "it may have been scored before"
    assert service.num_open == 0
    with pytest.raises(Dead, match="must be started again"):
        service.check()
    with pytest.raises(Dead):
        service.submit(ask().request)
    service.close()
    assert name in caplog.text


def test_a_failing_pass_ends_the_requests_in_flight_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flight = live_flight("llama", max_rows=1)
    forward, fails = flight.policy.model.forward, [True]

    def broken(*args: object, **options: object) -> object:
        if fails:
            fails.clear()
            raise RuntimeError("a fault of the base")
        return forward(*args, **options)

    monkeypatch.setattr(flight.policy.model, "forward", broken)
    asked = [ask(seed=k) for k in range(3)]
    with service_on(flight) as service:
        service.submit(*(one.request for one in asked))
    assert [str(one.error) for one in asked] == ["a fault of the base", "None", "None"]
    assert all(x.answers[0][2] for x in asked[1:])
    assert service.num_open == 0
    assert "a fault of the base" in caplog.text


def test_a_score_that_fails_leaves_answers_alone(caplog: pytest.LogCaptureFixture) -> None:
    scored, asked = ask(), ask(most=30)
    scored.request.sampling, scored.request.token_ids = None, (10**6,)
    with service_on(live_flight("llama")) as service:
        service.submit(asked.request, scored.request)
    assert isinstance(scored.error, IndexError)
    assert asked.answers[0][2]
    assert service.num_open == 0
    assert "IndexError" in caplog.text


def test_the_clock_of_deadlines_is_the_monotonic_one() -> None:
    asked = ask(deadline=time.monotonic() + SECONDS)
    with service_on(live_flight("llama")) as service:
        service.submit(asked.request)
    assert asked.answers[0][2]


def test_calls_run_between_passes_and_answers_are_as_without_them() -> None:
    flight = live_flight("llama")
    asked, alone = ask(most=30, seed=2), ask(most=30, seed=2)
    threads = []

    def look(found: LiveFlight) -> int:
        threads.append(threading.current_thread().name)
        with torch.no_grad():  # the model is as it is without the flight
            ids = torch.tensor([[1, 2, 3]])
            return int(found.policy.model(input_ids=ids).logits.argmax(-1)[0, -1])

    with service_on(flight) as service:
        service.submit(asked.request)
        found = [service.call(look) for _ in range(3)]
        expected = found[0].result(SECONDS)
        assert [one.result(SECONDS) for one in found] == [expected] * 3
    assert threads == ["inference"] * 3
    fly(flight, [alone])
    assert asked.answers == alone.answers
    assert service.num_open == 0
    with pytest.raises(Closed):
        service.call(look)


def test_a_call_that_fails_or_is_cancelled_ends_alone() -> None:
    def broken(found: LiveFlight) -> None:
        raise RuntimeError("a fault of the caller")

    asked, called = ask(most=30), []
    with service_on(live_flight("llama"), max_requests=4) as service:
        held = Held(service)
        service.submit(asked.request)
        failing, cancelled = service.call(broken), service.call(called.append)
        with pytest.raises(TooManyRequests):
            service.call(broken)
        assert cancelled.cancel()
        held.may_go.set()
        with pytest.raises(RuntimeError, match="a fault of the caller"):
            failing.result(SECONDS)
    assert called == []
    assert asked.answers[0][2]
    assert service.num_open == 0
