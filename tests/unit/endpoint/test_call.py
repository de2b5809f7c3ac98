"""What both endpoints read of a request."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.endpoint.call import Api, Call
from steer_lightning.endpoint.completions import TextCompletion
from steer_lightning.rollout import Sampling

ALL = {
    "model": "one@0.5",
    "n": 3,
    "seed": 7,
    "stop": "x",
    "stop_token_ids": [5],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "min_p": 0.1,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def test_all_settings_reach_the_sampling(api: Api) -> None:
    call = Call(api, ALL, ())
    assert call.sampling(9) == Sampling(
        group_size=3,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        max_new_tokens=9,
        eos_token_ids=[5],
        stop_strings=["x"],
    )
    assert (call.seed, call.streams, call.with_usage) == (7, True, True)
    assert call.steered == (api.models.vectors["one"], 0.5)
    assert 0 < call.deadline - time.monotonic() <= api.timeout


def test_without_settings_the_plain_distribution_is_sampled(api: Api) -> None:
    calls = [Call(api, {"model": "base"}, ()) for _ in range(2)]
    assert calls[0].sampling(9) == Sampling(group_size=1, max_new_tokens=9)
    assert calls[0].seed != calls[1].seed
    assert not calls[0].streams
    assert Call(api, {"model": "base", "top_k": -1}, ()).sampling(9).top_k == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "none"},
        {"model": None},
        {"n": 0},
        {"n": 5},
        {"seed": -1},
        {"seed": 2**63},
        {"temperature": 2.1},
        {"temperature": -1},
        {"top_p": -0.1},
        {"top_k": -2},
        {"min_p": 1.1},
        {"stop": [""]},
        {"stop_token_ids": [259]},
        {"stream_options": 1},
        {"stream": False},
        {"prompt": "a field of another endpoint"},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(api: Api, wrong: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        Call(api, {**ALL, **wrong}, ()).sampling(9)
    name = "stream_options" if "stream" in wrong else next(iter(wrong))
    assert caught.value.param == name
    assert caught.value.status == (404 if wrong.get("model") else 400)


def test_prompts_are_bounded(api: Api) -> None:
    assert api.tokens_of("ab", "prompt") == tuple(api.tokenizer("ab")["input_ids"])
    for text, told in (("x" * (64 * 256 + 1), "16385 characters"), ("a\ud800", "at character 1")):
        with pytest.raises(ApiError, match=told):
            api.tokens_of(text, "prompt")
    api.check_tokens((1,) * 255, "prompt")
    for tokens in ((), (1,) * 256):
        with pytest.raises(ApiError):
            api.check_tokens(tokens, "prompt")
    api.check_room((1,) * 250, 6, "max_tokens")
    with pytest.raises(ApiError, match="Set max_tokens to 6 or less") as caught:
        api.check_room((1,) * 250, 7, "max_tokens")
    assert caught.value.code == "context_length_exceeded"


def test_requests_have_the_settings_of_the_call(api: Api) -> None:
    call = Call(api, ALL, ())
    request = call.request((1, 2), call.sampling(9), 5, number=3)
    assert (request.token_ids, request.seed, request.number) == ((1, 2), 7, 3)
    assert (request.vectors, request.scale) == call.steered
    assert (request.num_alternatives, request.deadline) == (5, call.deadline)
    assert call.request((1,), None, None).sampling is None


def test_answers_have_a_frame(api: Api) -> None:
    call = Call(api, ALL, (), "chatcmpl")
    framed = call.framed("kind", [{"index": 0}], usage=None)
    assert framed["id"].startswith("chatcmpl-")
    assert framed == call.chunk("kind", {"index": 0}), "the same call has the same id"
    assert {"object": "kind", "model": "one@0.5", "usage": None}.items() <= framed.items()
    assert "usage" not in Call(api, {"model": "base"}, ()).chunk("kind", {})
    assert Call(api, ALL, ()).framed("kind", [])["id"] != framed["id"]


def test_long_texts_are_read_aside(api: Api) -> None:
    async def thread() -> str:
        return await api.aside(lambda: threading.current_thread().name)

    assert asyncio.run(thread()).startswith("texts")


@pytest.mark.parametrize("name", ["top_p", "temperature"])
@pytest.mark.parametrize("value", [0, 1e-300, 1e-50])
def test_tiny_numbers_take_the_likeliest_token(api: Api, name: str, value: float) -> None:
    async def text(**settings: float) -> str:
        body = {"model": "one", "prompt": "two", "max_tokens": 20, **settings}
        call = TextCompletion(api, body)
        return str((await call.whole(call.start()))["choices"][0]["text"])

    assert asyncio.run(text(**{name: value})) == asyncio.run(text(top_k=1))
