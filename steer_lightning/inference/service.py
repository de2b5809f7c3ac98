"""The thread that owns the model: it takes requests from other threads, and answers them."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from steer_lightning.rollout.live_completions import tell
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import LiveRequest
from steer_lightning.system.printable import indented

log = logging.getLogger(__name__)

T = TypeVar("T")


class TooManyRequests(Exception):
    """Says that no further request is taken for now."""


class Closed(Exception):
    """Says that the service has ended."""


class Dead(Closed):
    """Says that the thread of the service has died of an error."""


class Call:
    """A function that the thread of the service is to run.

    Args:
        function: Function of the paused flight.

    Attributes:
        future: What it returns, or raises.
    """

    def __init__(self, function: Callable[[LiveFlight], Any]) -> None:
        self._function = function
        self.future: Future[Any] = Future()

    def make(self, flight: LiveFlight) -> None:
        """Runs the function, unless the call was cancelled before."""
        try:
            if self.future.set_running_or_notify_cancel():
                flight.pause()
                self.future.set_result(self._function(flight))
        except Exception as error:  # the caller gets it
            self.future.set_exception(error)


class Service:
    """Answers requests on one flight, in a thread of its own.

    Requests enter the flight completion by completion, as rows become free. Those that wait take
    turns, so that one with many completions does not keep others out. Prompts are scored between
    passes of the flight, one at a time. Each request ends by an event, whatever happens, unless it
    has been cancelled.

    Args:
        flight: Flight that answers; nobody else may use it from now on.
        max_requests: Largest number of requests that are answered or wait at the same time.
    """

    def __init__(self, flight: LiveFlight, max_requests: int = 256) -> None:
        self._flight, self.max_requests = flight, max_requests
        self._incoming: SimpleQueue[LiveRequest | Call | None] = SimpleQueue()
        self._waiting: deque[LiveRequest] = deque()  # also those that have entered in part
        self._to_score: deque[LiveRequest] = deque()
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()
        self._open: set[LiveRequest | Call] = set()
        self._is_closed = False
        self._death: Dead | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def max_length(self) -> int:
        """Largest number of tokens of a prompt with its completion."""
        return self._flight.max_length

    @property
    def max_rows(self) -> int:
        """Largest number of completions of a request."""
        return self._flight.max_rows

    @property
    def num_open(self) -> int:
        """Number of requests that wait or are answered."""
        return len(self._open)

    def check(self) -> None:
        """Raises a `Dead` error if the thread of the service has died."""
        if self._death is not None:
            raise self._death

    def submit(self, *requests: LiveRequest) -> None:
        """Takes requests, all or none of them; any thread may call it.

        Args:
            requests: Requests, which must not be longer than `max_length` nor have more completions
                than `max_rows`.

        Raises:
            TooManyRequests: If that would be more requests than are allowed at the same time.
            Closed: If the service has been closed, or has died.
        """
        self._admit(*requests)

    def call(self, function: Callable[[LiveFlight], T]) -> Future[T]:
        """Lets the thread of the service run a function between two passes.

        Answers wait meanwhile, so the function should be short.

        Args:
            function: Function of the paused flight, whose model it may use and must leave as it
                was.

        Returns:
            What it returns, or raises. A call that is cancelled before it begins is not made.

        Raises:
            TooManyRequests: As for `submit`.
            Closed: If the service has been closed, or has died.
        """
        call = Call(function)
        self._admit(call)
        return call.future

    def _admit(self, *requests: LiveRequest | Call) -> None:
        with self._lock:
            self.check()
            if self._is_closed:
                raise Closed("the server is shutting down")
            if self.num_open + len(requests) > self.max_requests:
                raise TooManyRequests(
                    f"{self.num_open} prompts wait or are being answered, and {len(requests)} "
                    f"more would exceed the limit of {self.max_requests}"
                )
            self._open.update(requests)
            for request in requests:  # in the lock, so that none comes behind the end
                self._incoming.put(request)

    def close(self) -> None:
        """Takes no further requests, and returns when those that it has are answered."""
        with self._lock:
            self._is_closed = True
            self._incoming.put(None)
        self._thread.join()

    # ---- in the thread of the service

    def _run(self) -> None:
        try:
            self._answer()
        except BaseException as error:  # else those who wait would wait for ever
            log_failure()
            self._die(error)

    def _answer(self) -> None:
        is_closing = False
        while True:
            left = self._waiting or self._to_score or self._calls
            is_idle = self._flight.is_empty and not left
            if is_idle and is_closing:
                return
            is_closing |= self._receive(wait=is_idle)
            try:
                self._work()
            except Exception as error:  # whatever it is, the server answers the next request
                self._fail(error)

    def _receive(self, wait: bool) -> bool:
        """Takes over what has come; returns whether the end is among it."""
        while True:
            try:
                request = self._incoming.get(block=wait)
            except Empty:
                return False
            wait = False
            if request is None:
                return True
            if isinstance(request, Call):
                self._calls.append(request)
            else:
                (self._waiting if request.sampling else self._to_score).append(request)

    def _work(self) -> None:
        """Lets requests enter, scores a prompt, makes a call, and draws a token for each row."""
        self._end(self._flight.drop_overdue())  # first, since others may get their rows
        for requests in (self._waiting, self._to_score):
            self._drop_overdue(requests)
        while self._waiting and self._flight.has_room:
            self._enter(self._waiting.popleft())
        if self._to_score:
            self._score(self._to_score.popleft())
        if self._calls:
            call = self._calls.popleft()
            call.make(self._flight)
            self._end([call])
        if not self._flight.is_empty:
            self._end(self._flight.step())

    def _enter(self, request: LiveRequest) -> None:
        """Lets the next completion of a request enter; further ones take their turn again."""
        try:
            has_entered = self._flight.take(request)
        except Exception as error:  # as in `_run`; nothing of the request has entered
            log_failure()
            tell(request, error)
            self._end([request])
        else:
            if not has_entered:
                self._waiting.append(request)

    def _score(self, request: LiveRequest) -> None:
        try:
            self._flight.score(request)
        except Exception as error:  # as in `_run`; the flight has not been touched
            if not isinstance(error, FloatingPointError):
                log_failure()
            tell(request, error)
        finally:
            self._end([request])

    def _drop_overdue(self, requests: deque[LiveRequest]) -> None:
        """Drops waiting requests for which nobody waits any more, or which have waited too long."""
        now, entered = time.monotonic(), set(self._flight.completions.requests)
        late = [x for x in requests if x.is_cancelled or now > x.deadline]
        for request in [x for x in late if x not in entered]:
            requests.remove(request)
            tell(request, TimeoutError("the request has waited longer than the server allows"))
            self._end([request])

    def _end(self, requests: Sequence[LiveRequest | Call]) -> None:
        """Forgets requests that have ended, of which completions may still wait."""
        for request in requests:
            with suppress(ValueError):
                self._waiting.remove(request)  # type: ignore[arg-type]  # calls never wait there
        with self._lock:
            self._open.difference_update(requests)

    def _fail(self, error: Exception) -> None:
        """Ends all requests in flight with an error, and goes on with an empty flight."""
        log_failure()
        failed = self._flight.drop()
        for request in failed:
            tell(request, error)
        self._end(failed)

    def _die(self, error: BaseException) -> None:
        """Ends all requests, and refuses further ones."""
        with self._lock:
            self._death = Dead(
                f"the thread that answers has died ({type(error).__name__}): the server must be "
                "started again. Its log says more"
            )
            left = list(self._open)
            self._open.clear()
        for request in left:
            with suppress(Exception):  # it may be that which the thread has died of
                if isinstance(request, Call):
                    request.future.set_exception(self._death)
                else:
                    tell(request, self._death)


def log_failure() -> None:
    """Logs the error that is being handled, with its traceback."""
    log.error("a pass failed:\n%s", indented(traceback.format_exc().rstrip()))
