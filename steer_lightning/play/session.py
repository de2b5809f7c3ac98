"""What the page keeps for each of its visitors."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from steer_lightning.play.playground import Sides
from steer_lightning.steering import SiteVectors

T = TypeVar("T")

MOST_SESSIONS = 256


class Session:
    """A tab of a browser: its own vectors, its last answers, and what runs in it.

    Attributes:
        others: Vectors that were loaded in this tab, by name.
        sides: The last answers; None before the first.
        num_chosen: Number of times a token has been chosen.
    """

    def __init__(self) -> None:
        self.others: dict[str, SiteVectors] = {}
        self.sides: Sides | None = None
        self.num_chosen = 0
        self._stopped: asyncio.Event | None = None

    def begin(self) -> asyncio.Event:
        """Stops what runs; returns the event by which the next run is stopped."""
        self.stop()
        self._stopped = asyncio.Event()
        return self._stopped

    def stop(self) -> None:
        """Stops what runs."""
        if self._stopped is not None:
            self._stopped.set()


class Sessions:
    """The sessions of all open tabs, by the names that Gradio gives them."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Session] = OrderedDict()

    def of(self, name: str) -> Session:
        """Returns the session of a tab, which may be new.

        Beyond `MOST_SESSIONS`, the one that was used least recently is ended: whoever asks without
        a page never says that it has gone.
        """
        found = self._open.setdefault(name, Session())
        self._open.move_to_end(name)
        while len(self._open) > MOST_SESSIONS:
            self.end(next(iter(self._open)))
        return found

    def end(self, name: str) -> None:
        """Stops what runs in a tab that has gone, and forgets its vectors and answers."""
        session = self._open.pop(name, None)
        if session is not None:
            session.stop()


async def until(
    stopped: asyncio.Event, pictures: AsyncGenerator[T, None]
) -> AsyncGenerator[T, None]:
    """Yields what a generator yields, and closes it as soon as an event is set.

    Args:
        stopped: Event that ends it.
        pictures: Generator, which is closed in the end, whatever happens.
    """
    end = asyncio.ensure_future(stopped.wait())
    async with aclosing(pictures):
        try:
            while True:
                following = asyncio.ensure_future(anext(pictures))
                try:
                    await asyncio.wait({following, end}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.wait({following})
                if following.cancelled() or stopped.is_set():
                    return
                try:
                    picture = following.result()
                except StopAsyncIteration:
                    return
                yield picture
        finally:
            end.cancel()
