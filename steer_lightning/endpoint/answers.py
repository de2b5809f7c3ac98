"""The answers to the prompts of a call, as they come from the thread of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial

from steer_lightning.inference.service import Service
from steer_lightning.rollout.live_request import (
    Event,
    Finish,
    LiveRequest,
    Piece,
    PromptScores,
    TokenFacts,
)

MOST_UNREAD = 65_536
"""Largest number of parts of the answers to a call that wait to be sent."""


class Answers:
    """Hands the requests of a call over to the service, and its answers to the event loop.

    A client that reads so slowly that too many parts wait for it gets no further ones.

    Args:
        service: Service that answers.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._loop = service, asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._requests: list[LiveRequest] = []
        self._num_parts = 0

    def add(self, request: LiveRequest, prompt: int) -> None:
        """Adds a request, whose `on_event` is set here.

        Args:
            request: Request to add.
            prompt: Number of the prompt in the call, which comes with each part of its answer.
        """
        request.on_event = partial(self._put, request, prompt)
        self._requests.append(request)
        self._num_parts += request.num_choices or 1

    def _put(self, request: LiveRequest, prompt: int, event: Event) -> None:
        """Takes a part of an answer; the thread of the service calls it."""
        if self._queue.qsize() >= MOST_UNREAD:
            self.cancel()
            event = TimeoutError("the client does not read its answer")
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (prompt, event))
        except RuntimeError:  # the loop is closed, so nobody waits any more
            request.is_cancelled = True

    def submit(self) -> None:
        """Submits all requests, or none; see `Service.submit`."""
        self._service.submit(*self._requests)

    async def parts(self) -> AsyncGenerator[tuple[int, Piece | PromptScores], None]:
        """Yields the parts of all answers with the number of their prompt, until all have ended.

        If the caller stops before, the requests are cancelled.

        Raises:
            Exception: If an answer fails.
        """
        left = self._num_parts
        try:
            while left:
                prompt, event = await self._queue.get()
                if isinstance(event, Exception):
                    raise event
                left -= isinstance(event, PromptScores) or event.finish is not None
                yield prompt, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Frees the rows of answers that have not ended."""
        for request in self._requests:
            request.is_cancelled = True


@dataclass
class Gathered:
    """The pieces of a completion, put together."""

    texts: list[str] = field(default_factory=list)
    tokens: list[TokenFacts] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        """Adds the next piece."""
        self.texts.append(piece.text)
        self.tokens += piece.tokens
        self.finish = piece.finish or self.finish

    @property
    def text(self) -> str:
        """Text of the completion."""
        return "".join(self.texts)


def usage(num_prompt: int, num_completion: int) -> dict[str, int]:
    """Returns the numbers of tokens of a call, in the form of the API."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }
