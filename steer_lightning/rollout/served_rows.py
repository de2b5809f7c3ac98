"""The rows of a rollout while servers sample them."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import GREEDY_BELOW, Sampling
from steer_lightning.rollout.server_link import LostServer, Message, ServerLink, refusal

Lose = Callable[[ServerLink, str], Sequence[ServerLink]]
"""Function that takes a server and the reason why it is lost, and returns those that are left."""

TICK = 0.5
"""Seconds after which servers that are silent are looked at."""

LEAST_TOP_P = 1e-30
"""Number that keeps one token, like 0, which vLLM refuses."""


def seed_of_row(seed: int, step: int, prompt: int, sample: int) -> int:
    """Returns the seed from which vLLM draws a row, 63 bits of (seed, step, prompt, sample)."""
    state = np.random.SeedSequence((seed, step, prompt, sample)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def settings_of(sampling: Sampling, eos_token_ids: Sequence[int]) -> dict[str, Any]:
    """Returns the settings of a rollout by the names of vLLM's `SamplingParams`."""
    return {
        "temperature": 0.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature,
        "top_p": max(sampling.top_p, LEAST_TOP_P),
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(sampling.stop_strings),
        "stop_token_ids": sorted({*eos_token_ids, *sampling.eos_token_ids}),
    }


class ServedRows:
    """Shares the rows of a rollout out among servers, and collects them as they end.

    All rows of a prompt go to the same server, which then reads the prompt only once. Rows of a
    server that is lost go to the others, with the same seeds.

    Args:
        request: Prompts and settings.
        eos_token_ids: Tokens that end a completion of the model.
        version: Version of the vectors with which the rows must be sampled.
        links: Servers.
        start: Function that starts a request at a server, see `ServerLink.start`, and makes sure
            that the server has these vectors.
        lose: Function that notes that a server is lost; it raises an error if the run must end.
    """

    def __init__(
        self,
        request: Request,
        eos_token_ids: Sequence[int],
        version: str,
        links: Sequence[ServerLink],
        start: Callable[..., Callable[[], None]],
        lose: Lose,
    ) -> None:
        self.request, self.version = request, version
        self._settings = settings_of(request.sampling, eos_token_ids)
        self._start, self._lose = start, lose
        self._queue: queue.Queue[tuple[_Share, Message, float]] = queue.Queue()
        self._shares: list[_Share] = []
        self._kept: list[Message] = []
        try:
            self._spread(range(len(request.prompts) * request.sampling.group_size), links)
        except BaseException:  # a server that is lost, and ends the run
            self.abandon()
            raise

    def _spread(self, rows: Sequence[int], links: Sequence[ServerLink]) -> None:
        """Starts rows at servers; the prompts take turns."""
        size = self.request.sampling.group_size
        prompts = sorted({row // size for row in rows})
        for number, link in enumerate(left := list(links)):  # which shrinks if one is lost
            chosen = prompts[number :: len(left)]
            if chosen:
                self._begin(link, [row for row in rows if row // size in set(chosen)], chosen)

    def _begin(self, link: ServerLink, rows: Sequence[int], prompts: Sequence[int]) -> None:
        asked, size = self.request, self.request.sampling.group_size
        place = {prompt: k for k, prompt in enumerate(prompts)}
        ids = [asked.prompts[row // size].id for row in rows]
        seeds = [
            seed_of_row(asked.seed, asked.step, prompt, row % size)
            for prompt, row in zip(ids, rows, strict=True)
        ]
        content = {
            "version": self.version,
            "prompts": [list(asked.prompts[b].token_ids) for b in prompts],
            "rows": [(row, place[row // size], seeds[k]) for k, row in enumerate(rows)],
            "sampling": self._settings,
        }
        share = _Share(link, set(rows), time.monotonic())
        self._shares.append(share)
        try:
            share.abandon = self._start(link, content, partial(self._arrived, share))
            # it may have had to wait, with the vectors, for completions that others asked for
            share.heard = time.monotonic()
        except LostServer as error:
            self._give_up(link, str(error))

    def _arrived(self, share: _Share, message: Message) -> None:
        """Takes a message, from the thread of a connection."""
        self._queue.put((share, message, time.monotonic()))

    def _give_up(self, link: ServerLink, reason: str) -> None:
        """Passes the rows of a lost server on to the others."""
        lost = [share for share in self._shares if share.link is link]
        rows = sorted(row for share in lost for row in share.missing)
        for share in lost:
            share.abandon()
            share.missing.clear()
            self._shares.remove(share)
        self._spread(rows, self._lose(link, reason))

    def __iter__(self) -> Iterator[Message]:
        """Yields the message of each row as soon as it has ended; see `rollout_server.sampled`.

        Raises:
            ConfigError: If a server refuses the request, or is lost and the run must end.
        """
        kept, self._kept = self._kept, []
        yield from kept
        while any(share.missing for share in self._shares):
            message = self._next()
            if message is not None:
                yield message

    def finish(self) -> None:
        """Waits until all rows have ended, and keeps them."""
        self._kept = list(self)

    def abandon(self) -> None:
        """Lets the servers end the rows that are still missing."""
        for share in self._shares:
            share.abandon()

    def _next(self) -> Message | None:
        """Returns the next row that has ended; None if something else happened."""
        try:
            share, message, arrived = self._queue.get(timeout=TICK)
        except queue.Empty:  # only now, since messages may have waited for the trainer
            self._look_for_silence()
            return None
        if message.get("row") in share.missing:
            share.missing.discard(message["row"])
            share.heard = arrived
            return message
        if message.get("num_tokens", 0) > share.num_tokens:  # a server may answer, and yet hang
            share.heard, share.num_tokens = arrived, message["num_tokens"]
        elif share.missing and "refused" in message:
            raise refusal(share.link.address, str(message["refused"]))
        elif share.missing and ("error" in message or "end" in message):
            self._give_up(share.link, str(message.get("error") or message["end"]))
        return None

    def _look_for_silence(self) -> None:
        for share in list(self._shares):
            limit = share.link.timeout
            if share.missing and time.monotonic() - share.heard > limit:
                self._give_up(share.link, f"it has sampled nothing for {limit:g} seconds")


@dataclass(eq=False)
class _Share:
    """The rows that a server samples by one request."""

    link: ServerLink
    missing: set[int]
    """Numbers of the rows that have not ended yet."""
    heard: float
    """Time at which the server last sampled something, or took the request."""
    num_tokens: int = 0
    """Number of tokens that the server has sampled so far."""
    abandon: Callable[[], None] = lambda: None
    """Function that lets the server end these rows."""
