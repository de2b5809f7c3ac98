"""What the page keeps for each of its visitors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from steer_lightning.play.playground import Sides
from steer_lightning.steering import SiteVectors

T = TypeVar("T")


class Session:
    """A tab of a browser: its own vectors, its last answers, and what runs in it.

    Attributes:
        others: Vectors that were loaded in this tab, by name.
        sides: The last answers; None before the first.
    """

    def __init__(self) -> None:
        self.others: dict[str, SiteVectors] = {}
        self.sides: Sides | None = None
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
