"""Answers come to the event loop, and end with whoever waits for them."""

from __future__ import annotations

import asyncio

import pytest

from steer_lightning.endpoint import answers as answers_file
from steer_lightning.endpoint.answers import Answers, Gathered, usage
from steer_lightning.endpoint.call import Api
from steer_lightning.inference.service import TooManyRequests
from steer_lightning.rollout.live_request import LiveRequest, Piece, PromptScores, TokenFacts
from tests.live import ask


def requests(api: Api, *, most: int = 4) -> list[LiveRequest]:
    scored = ask()
    scored.request.sampling = None
    asked = [ask(n=2, most=most), scored, ask(most=most, seed=3)]
    return [one.request for one in asked]


def test_all_parts_come_with_the_number_of_their_prompt(api: Api) -> None:
    async def parts() -> list[tuple[int, Piece | PromptScores]]:
        answers = Answers(api.service)
        for prompt, request in enumerate(requests(api)):
            answers.add(request, prompt)
        answers.submit()
        return [part async for part in answers.parts()]

    found = asyncio.run(parts())
    ends = [
        (prompt, part.choice) for prompt, part in found if isinstance(part, Piece) and part.finish
    ]
    assert sorted(ends) == [(0, 0), (0, 1), (2, 0)]
    assert [prompt for prompt, part in found if isinstance(part, PromptScores)] == [1]


def test_whoever_leaves_frees_all_rows(api: Api) -> None:
    async def leave() -> list[LiveRequest]:
        answers, asked = Answers(api.service), requests(api, most=200)
        for prompt, request in enumerate(asked):
            answers.add(request, prompt)
        answers.submit()
        parts = answers.parts()
        await anext(parts)
        await parts.aclose()
        while api.service.num_open:
            await asyncio.sleep(0.01)
        return asked

    assert all(request.is_cancelled for request in asyncio.run(leave()))


def test_an_answer_outlives_its_loop(api: Api) -> None:
    async def submit() -> LiveRequest:
        answers = Answers(api.service)
        (request,) = [ask(most=100).request]
        answers.add(request, 0)
        answers.submit()
        return request

    asked = asyncio.run(submit())
    while api.service.num_open:
        pass
    assert asked.is_cancelled


def test_an_error_ends_the_answer(api: Api) -> None:
    async def parts(count: int) -> None:
        answers = Answers(api.service)
        for prompt in range(count):
            answers.add(ask(vectors=api.models.vectors["infinite"], scale=2.0).request, prompt)
        answers.submit()
        async for _ in answers.parts():
            pass

    with pytest.raises(FloatingPointError):
        asyncio.run(parts(1))
    with pytest.raises(TooManyRequests):
        asyncio.run(parts(13))


def test_a_reader_that_is_far_behind_gets_no_more(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_file, "MOST_UNREAD", 5)

    async def parts() -> list[LiveRequest]:
        answers, asked = Answers(api.service), requests(api, most=200)
        for prompt, request in enumerate(asked):
            answers.add(request, prompt)
        answers.submit()
        while api.service.num_open:
            await asyncio.sleep(0.01)  # parts come, and nobody takes them
        assert 5 < answers._queue.qsize() < 20
        with pytest.raises(TimeoutError, match="does not read"):
            async for _ in answers.parts():
                pass
        return asked

    assert all(request.is_cancelled for request in asyncio.run(parts()))


def test_pieces_are_put_together() -> None:
    gathered = Gathered()
    for text, finish in (("a", None), ("b", "stop")):
        gathered.add(Piece(choice=0, text=text, tokens=(TokenFacts(id=5),), finish=finish))
    assert (gathered.text, len(gathered.tokens), gathered.finish) == ("ab", 2, "stop")
    assert usage(3, 4)["total_tokens"] == 7
