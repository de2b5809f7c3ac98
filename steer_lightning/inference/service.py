"""The thread that owns the model: it takes requests from other threads, and answers them."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from queue import Empty, SimpleQueue

from steer_lightning.rollout.live_completions import tell
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import LiveRequest
from steer_lightning.system.printable import indented

log = logging.getLogger(__name__)


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
        self._incoming: SimpleQueue[LiveRequest | None] = SimpleQueue()
        self._waiting: deque[LiveRequest] = deque()
        self._to_score: deque[LiveRequest] = deque()
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
            is_idle = self._flight.is_empty and not self._waiting and not self._to_score
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
            (self._waiting if request.sampling else self._to_score).append(request)

    def _work(self) -> None:
        """Lets requests enter, scores a prompt, and draws a token for each row."""
        for requests in (self._waiting, self._to_score):
            self._drop_overdue(requests)
        while self._waiting and self._flight.can_take(self._waiting[0]):
            self._flight.take(self._waiting.popleft())
        if self._to_score:
            self._score(self._to_score.popleft())
        if not self._flight.is_empty:
            self._end(self._flight.step())

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
        now = time.monotonic()
        for request in [x for x in requests if x.is_cancelled or now > x.deadline]:
            requests.remove(request)
            tell(request, TimeoutError("the request has waited longer than the server allows"))
            self._end([request])

    def _end(self, requests: list[LiveRequest]) -> None:
        with self._lock:
            self._num_open -= len(requests)

    def _fail(self, error: Exception) -> None:
        """Ends all requests in flight with an error, and goes on with an empty flight."""
        log_failure()
        failed = self._flight.drop()
        for request in failed:
            tell(request, error)
        self._end(failed)


def log_failure() -> None:
    """Logs the error that is being handled, with its traceback."""
    log.error("a pass failed:\n%s", indented(traceback.format_exc().rstrip()))
