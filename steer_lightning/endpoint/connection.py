"""A connection to a client, which is cut if the client stalls.

Tested with uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

STALL_SECONDS = 30.0
"""Largest number of seconds in which a client may send no whole head of a request, or read none of
what waits for it."""


class Connection(H11Protocol):
    """Cuts a connection whose client neither asks nor reads, which frees the rows of its answer.

    What is sent to a client that does not read waits in the memory of the server, up to a mark at
    which asyncio calls `pause_writing`. Then the answer is not written any further.
    """

    _to_ask: asyncio.TimerHandle | None = None
    _to_read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._to_ask = self._cut_later()

    def data_received(self, data: bytes) -> None:
        """Takes bytes, which begin, continue or end the head of a request, or are its body."""
        super().data_received(data)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            _stop(self._to_ask)
            self._to_ask = None
        elif self._to_ask is None:
            self._to_ask = self._cut_later()

    def pause_writing(self) -> None:
        """Begins to wait for a client that does not read as fast as it is answered."""
        super().pause_writing()
        self._to_read = self._cut_later()

    def resume_writing(self) -> None:
        """Goes on, since the client has read."""
        super().resume_writing()
        _stop(self._to_read)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting."""
        _stop(self._to_ask)
        _stop(self._to_read)
        super().connection_lost(exc)

    def _cut_later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(STALL_SECONDS, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
