"""`/v1/chat/completions`: conversations by the model's template or by that of a run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from steer_lightning.data import ChatTemplate, PlainTemplate
from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.endpoint.call import Api
from steer_lightning.endpoint.chat import ChatCompletion, messages_of, rendered

USER = {"role": "user", "content": "two"}
ASKED = {"model": "one", "messages": [USER], "max_tokens": 30, "seed": 3}


def whole(api: Api, **changes: Any) -> dict[str, Any]:
    async def answer() -> dict[str, Any]:
        call = ChatCompletion(api, {**ASKED, **changes})
        return await call.whole(call.start())

    return asyncio.run(answer())


def chunks(api: Api, **changes: Any) -> list[dict[str, Any]]:
    async def answer() -> list[dict[str, Any]]:
        call = ChatCompletion(api, {**ASKED, **changes, "stream": True})
        return [chunk async for chunk in call.chunks(call.start())]

    return asyncio.run(answer())


def test_an_answer_has_the_form_of_the_api(api: Api) -> None:
    found = whole(api, n=2, logprobs=True, top_logprobs=2)
    assert found["object"] == "chat.completion"
    first = found["choices"][0]
    assert first["message"]["role"] == "assistant"
    tokens = first["logprobs"]["content"]
    assert len(tokens[0]["top_logprobs"]) == 2
    assert tokens[0]["logprob"] <= tokens[0]["top_logprobs"][0]["logprob"] <= 0
    told = bytes(byte for token in tokens for byte in token["bytes"])
    text = told.removesuffix(b"<eos>").decode(errors="replace")
    assert text == first["message"]["content"], "most bytes are no whole character"
    assert any(token["token"] == "\N{REPLACEMENT CHARACTER}" for token in tokens)
    assert found["usage"]["prompt_tokens"] == len("u:two\na:")
    counts = [len(choice["logprobs"]["content"]) for choice in found["choices"]]
    assert sum(counts) == found["usage"]["completion_tokens"]
    assert whole(api)["choices"][0]["logprobs"] is None


def test_a_stream_is_the_whole_answer_in_pieces(api: Api) -> None:
    changes = {"n": 2, "logprobs": True, "stream_options": {"include_usage": True}}
    expected, found = whole(api, n=2, logprobs=True), chunks(api, **changes)
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert found[-1]["usage"] == expected["usage"]
    for choice in expected["choices"]:
        own = [x["choices"][0] for x in found[:-1] if x["choices"][0]["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(part["delta"].get("content", "") for part in own)
        assert text == choice["message"]["content"]
        told = [x for part in own if part["logprobs"] for x in part["logprobs"]["content"]]
        assert told == choice["logprobs"]["content"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]


def test_without_a_limit_an_answer_may_fill_the_room(api: Api) -> None:
    body = {key: value for key, value in ASKED.items() if key != "max_tokens"}
    call = ChatCompletion(api, body)
    assert call._sampling.max_new_tokens == 256 - len("u:two\na:")
    assert ChatCompletion(api, {**body, "max_completion_tokens": 5})._sampling.max_new_tokens == 5


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"messages": None}, "a list of at least one message"),
        ({"messages": []}, "a list of at least one message"),
        ({"messages": ["two"]}, "must be one of system, developer, user, assistant"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "must be one of"),
        ({"messages": [{"role": "user"}]}, "content = null: must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "must be text"),
        ({"messages": [{**USER, "tool_calls": [1]}]}, "send text only"),
        ({"messages": [USER, {"role": "system", "content": "x"}]}, "must come first"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "at most 256 tokens"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "valid Unicode"),
        ({"max_tokens": 249}, "Set max_tokens to 248 or less"),
        ({"max_tokens": 0}, "from 1 to 256"),
        ({"max_completion_tokens": 0}, "from 1 to 256"),
        ({"top_logprobs": 2}, "needs logprobs: true"),
        ({"logprobs": 1}, "true or false"),
        ({"prompt": "x"}, "there is no field"),
    ],
    ids=str,
)
def test_what_can_not_be_answered_is_refused(api: Api, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError, match=told) as caught:
        ChatCompletion(api, {**ASKED, **wrong})
    assert caught.value.status == 400


def test_without_a_template_there_is_no_chat(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.models, "template", None)
    with pytest.raises(ApiError, match="Use /v1/completions, or start the server with --template"):
        ChatCompletion(api, ASKED)


def test_messages_are_read_as_clients_write_them() -> None:
    answer = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None}
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    found = messages_of(
        [{"role": "developer", "content": "s"}, answer, {"role": "user", "content": parts}]
    )
    assert found == [
        {"role": "system", "content": "s"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "bc"},
    ]


def test_the_system_message_of_a_run_stands_where_there_is_none(api: Api) -> None:
    template, user = ChatTemplate(system="be brief"), dict(USER)
    assert rendered(template, [user], api.tokenizer) == "s:be brief\nu:two\na:"
    own = [{"role": "system", "content": "x"}, user]
    assert rendered(template, own, api.tokenizer) == "s:x\nu:two\na:"
    inside = ChatTemplate(system="be brief", system_in_user=True)
    talk = [user, {"role": "assistant", "content": "2"}, user]
    expected = "u:be brief\n\ntwo\na:2\nu:two\na:"
    assert rendered(inside, talk, api.tokenizer) == expected
    assert rendered(ChatTemplate(system=None), talk, api.tokenizer) == "u:two\na:2\nu:two\na:"


def test_a_plain_template_takes_one_question(api: Api) -> None:
    template = PlainTemplate("Q: {question}\nA:")
    assert rendered(template, [dict(USER)], api.tokenizer) == "Q: two\nA:"
    for messages in ([dict(USER)] * 2, [{"role": "system", "content": "x"}]):
        with pytest.raises(ApiError, match="a single message of the user"):
            rendered(template, messages, api.tokenizer)
