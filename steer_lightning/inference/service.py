"""The thread that owns the model: it takes requests from other threads, and answers them."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from steer_lightning.rollout.live_completions import tell
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import LiveRequest
from steer_lightning.system.printable import indented

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], None]


class TooManyRequests(Exception):
    """Says that no further request is taken for now."""


class Closed(Exception):
    """Says that the service has ended."""


class Service:
    """Answers requests on one flight, in a thread of its own.

    Requests enter the flight in the order in which they come, as soon as there is room for all of
    their completions. Prompts are scored between passes of the flight, one at a time.

    Args:
        flight: Flight that answers; nobody else may use it from now on.
        max_requests: Largest number of requests that are answered or wait at the same time.
    """

    def __init__(self, flight: LiveFlight, max_requests: int = 256) -> None:
        self._flight, self.max_requests = flight, max_requests
        self._incoming: SimpleQueue[LiveRequest | Work | None] = SimpleQueue()
        self._waiting: deque[LiveRequest] = deque()
        self._to_score: deque[LiveRequest] = deque()
        self._calls: deque[Work] = deque()
        self._lock = threading.Lock()
        self._num_open = 0
        self._is_closed = False
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
        return self._num_open

    def submit(self, *requests: LiveRequest) -> None:
        """Takes requests, all or none of them; any thread may call it.

        Args:
            requests: Requests, which must not be longer than `max_length` nor have more completions
                than `max_rows`.

        Raises:
            TooManyRequests: If that would be more requests than are allowed at the same time.
            Closed: If the service has been closed.
        """
        self._enter(*requests)

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
            Closed: If the service has been closed.
        """
        future: Future[T] = Future()
        self._enter(partial(self._make, function, future))
        return future

    def _enter(self, *requests: LiveRequest | Work) -> None:
        with self._lock:
            if self._is_closed:
                raise Closed("the server is shutting down")
            if self._num_open + len(requests) > self.max_requests:
                raise TooManyRequests(
                    f"{self._num_open} prompts wait or are being answered, and {len(requests)} "
                    f"more would exceed the limit of {self.max_requests}"
                )
            self._num_open += len(requests)
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
            if not isinstance(request, LiveRequest):
                self._calls.append(request)
            else:
                (self._waiting if request.sampling else self._to_score).append(request)

    def _work(self) -> None:
        """Lets requests enter, scores a prompt or makes a call, and draws a token for each row."""
        for requests in (self._waiting, self._to_score):
            self._drop_overdue(requests)
        while self._waiting and self._flight.can_take(self._waiting[0]):
            self._flight.take(self._waiting.popleft())
        if self._to_score:
            self._score(self._to_score.popleft())
        if self._calls:
            self._calls.popleft()()
        if not self._flight.is_empty:
            self._end(len(self._flight.step()))

    def _score(self, request: LiveRequest) -> None:
        try:
            self._flight.score(request)
        except Exception as error:  # as in `_run`; the flight has not been touched
            if not isinstance(error, FloatingPointError):
                log_failure()
            tell(request, error)
        finally:
            self._end(1)

    def _make(self, function: Callable[[LiveFlight], T], future: Future[T]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                self._flight.pause()
                future.set_result(function(self._flight))
        except Exception as error:  # the caller gets it
            future.set_exception(error)
        finally:
            self._end(1)

    def _drop_overdue(self, requests: deque[LiveRequest]) -> None:
        """Drops waiting requests for which nobody waits any more, or which have waited too long."""
        now = time.monotonic()
        for request in [x for x in requests if x.is_cancelled or now > x.deadline]:
            requests.remove(request)
            tell(request, TimeoutError("the request has waited longer than the server allows"))
            self._end(1)

    def _end(self, count: int) -> None:
        with self._lock:
            self._num_open -= count

    def _fail(self, error: Exception) -> None:
        """Ends all requests in flight with an error, and goes on with an empty flight."""
        log_failure()
        failed = self._flight.drop()
        for request in failed:
            tell(request, error)
        self._end(len(failed))


def log_failure() -> None:
    """Logs the error that is being handled, with its traceback."""
    log.error("a pass failed:\n%s", indented(traceback.format_exc().rstrip()))
