"""What runs in a tab ends at once when something else begins, or the tab goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from steer_lightning.play.session import MOST_SESSIONS, Session, Sessions, until


class Pictures:
    """A generator that waits for long after a few pictures, and notes that it was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_closed, self.error = False, error

    async def run(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            if self.error is not None:
                raise self.error
            await asyncio.sleep(3600)
        finally:
            self.is_closed = True


def test_a_stop_ends_a_generator_that_waits() -> None:
    async def main() -> list[int]:
        session, pictures = Session(), Pictures()
        stopped, seen = session.begin(), []
        async for picture in until(stopped, pictures.run()):
            seen.append(picture)
            if picture == 2:
                asyncio.get_running_loop().call_later(0.01, session.stop)
        assert pictures.is_closed
        return seen

    assert asyncio.run(asyncio.wait_for(main(), 30)) == [1, 2]


def test_the_next_run_stops_the_one_before() -> None:
    async def main() -> None:
        session = Session()
        first = session.begin()
        second = session.begin()
        assert first.is_set()
        assert not second.is_set()

    asyncio.run(main())


def test_sessions_are_ended_with_their_tabs_and_bounded_in_number() -> None:
    async def main() -> None:
        sessions = Sessions()
        first = sessions.of("a")
        stopped = first.begin()
        assert sessions.of("a") is first
        sessions.end("a")
        assert stopped.is_set()
        assert sessions.of("a") is not first
        for k in range(MOST_SESSIONS):
            sessions.of(f"tab {k}")
        assert len(sessions._open) == MOST_SESSIONS
        sessions.end("unknown")

    asyncio.run(main())


def test_a_reader_that_goes_away_closes_the_generator() -> None:
    async def main() -> None:
        pictures = Pictures()
        shown = until(asyncio.Event(), pictures.run())
        assert await anext(shown) == 1
        await shown.aclose()
        assert pictures.is_closed

        waiting = Pictures()
        shown = until(asyncio.Event(), waiting.run())
        task = asyncio.ensure_future(_all(shown))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await shown.aclose()
        assert waiting.is_closed

    asyncio.run(asyncio.wait_for(main(), 30))


async def _all(shown: AsyncGenerator[int, None]) -> list[int]:
    return [picture async for picture in shown]


def test_errors_pass_through() -> None:
    with pytest.raises(ArithmeticError, match="no"):
        asyncio.run(_all(until(asyncio.Event(), Pictures(ArithmeticError("no")).run())))
