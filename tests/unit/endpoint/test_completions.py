"""`/v1/completions`: prompts, echoes, log-probabilities and streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from steer_lightning import load_model
from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.endpoint.call import Api
from steer_lightning.endpoint.completions import TextCompletion

ASKED = {"model": "one", "prompt": "two words", "max_tokens": 8, "seed": 3}


def whole(api: Api, **changes: Any) -> dict[str, Any]:
    async def answer() -> dict[str, Any]:
        call = TextCompletion(api, {**ASKED, **changes})
        return await call.whole(call.start())

    return asyncio.run(answer())


def chunks(api: Api, **changes: Any) -> list[dict[str, Any]]:
    async def answer() -> list[dict[str, Any]]:
        call = TextCompletion(api, {**ASKED, **changes, "stream": True})
        return [chunk async for chunk in call.chunks(call.start())]

    return asyncio.run(answer())


def plain_logprobs(api: Api, model: str, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities (T - 1, V) of a text from a plain pass."""
    steered = api.models.find(model)
    ids = torch.tensor([tokens])
    base, _ = load_model(api.models.policy.base)  # the thread of the service has its own
    with torch.inference_mode():
        if steered.vectors is None:
            return base(ids).logits[0, :-1].log_softmax(-1)
        with steered.vectors.attach(base, steered.scale):
            return base(ids).logits[0, :-1].log_softmax(-1)


def test_an_answer_has_the_form_of_the_api(api: Api) -> None:
    found = whole(api, n=2)
    assert found["object"] == "text_completion"
    assert found["model"] == "one"
    assert [choice["index"] for choice in found["choices"]] == [0, 1]
    assert {choice["finish_reason"] for choice in found["choices"]} <= {"stop", "length"}
    assert found["choices"][0]["logprobs"] is None
    assert found["usage"]["prompt_tokens"] == 9
    assert found["choices"] == whole(api, n=2)["choices"], "the seed decides"
    assert found["choices"] != whole(api, n=2, seed=4)["choices"]


def test_models_and_scales_answer_differently(api: Api) -> None:
    texts = [whole(api, model=name, logprobs=1)["choices"][0] for name in ("base", "one", "two")]
    texts.append(whole(api, model="one@0.5", logprobs=1)["choices"][0])
    assert len({str(text["logprobs"]["token_logprobs"]) for text in texts}) == 4
    base = texts[0]
    assert whole(api, model="one@0", logprobs=1)["choices"][0] == base


def test_several_prompts_are_answered_each_by_itself(api: Api) -> None:
    found = whole(api, prompt=["a", "b"], n=2)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert whole(api, prompt=["a"], n=2)["choices"] == found["choices"][:2]
    tokens = [list(api.tokens_of(text, "prompt")) for text in ("a", "b")]
    assert whole(api, prompt=tokens, n=2)["choices"] == found["choices"]
    assert whole(api, prompt=tokens[0], n=2)["choices"] == found["choices"][:2]


@pytest.mark.parametrize("model", ["base", "one@-0.5"])
@pytest.mark.parametrize("most", [0, 3])
def test_an_echo_has_the_log_probabilities_of_the_prompt(api: Api, model: str, most: int) -> None:
    prompt = [1, *api.tokenizer("né\n")["input_ids"]]
    found = whole(api, model=model, prompt=prompt, echo=True, logprobs=2, max_tokens=most)
    (choice,) = found["choices"]
    told = choice["logprobs"]
    assert choice["text"].startswith("né\n")
    assert told["tokens"][:2] == ["<bos>", "n"]
    assert told["text_offset"][:5] == [0, 0, 1, 1, 2], "<bos> is no text, and é has two tokens"
    count = len(prompt)
    assert len(told["tokens"]) == count + found["usage"]["completion_tokens"]
    logprobs = plain_logprobs(api, model, prompt)
    expected = logprobs.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    own = torch.tensor(told["token_logprobs"][1:count])
    torch.testing.assert_close(own, expected, rtol=0, atol=2e-5)
    for place, top in enumerate(told["top_logprobs"][1:count]):
        assert max(top.values()) == pytest.approx(float(logprobs[place].max()), abs=2e-5)
        assert told["tokens"][place + 1] in top
        assert 1 <= len(top) <= 3


def test_a_stream_is_the_whole_answer_in_pieces(api: Api) -> None:
    changes = {"n": 2, "logprobs": 1, "max_tokens": 30, "prompt": ["a", "b"]}
    expected, found = whole(api, **changes), chunks(api, **changes)
    for choice in expected["choices"]:
        own = [x["choices"][0] for x in found if x["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        for key in ("tokens", "token_logprobs"):
            joined = [value for part in own for value in part["logprobs"][key]]
            assert joined == choice["logprobs"][key]
        assert [part["finish_reason"] for part in own] == [
            *[None] * (len(own) - 1),
            choice["finish_reason"],
        ]
        assert len(own) > 3
    with_usage = chunks(api, **changes, stream_options={"include_usage": True})
    assert with_usage[-1]["usage"] == expected["usage"]
    assert with_usage[-1]["choices"] == []


def test_a_streamed_echo_begins_with_the_prompt(api: Api) -> None:
    found = chunks(api, echo=True)
    assert found[0]["choices"][0]["text"] == "two words"
    text = "".join(chunk["choices"][0]["text"] for chunk in found)
    assert text == whole(api, echo=True)["choices"][0]["text"]
    (only,) = chunks(api, echo=True, max_tokens=0)
    assert only["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompt": None}, "must be a text, a list"),
        ({"prompt": []}, "must be a text, a list"),
        ({"prompt": {"a": 1}}, "must be a text, a list"),
        ({"prompt": ["a", 1]}, "prompt has 1, no text or tokens"),
        ({"prompt": [[]]}, r"prompt has \[\], no text"),
        ({"prompt": ""}, "at least one token"),
        ({"prompt": [259]}, "tokens from 0 to 258"),
        ({"prompt": [-1]}, "tokens from 0 to 258"),
        ({"prompt": ["a"] * 7}, "send up to 6"),
        ({"prompt": "x" * 256}, "has 256 tokens"),
        ({"max_tokens": 248}, "Set max_tokens to 247 or less"),
        ({"max_tokens": 0}, "from 1 to 256"),
        ({"logprobs": 21}, "from 0 to 20"),
        ({"logprobs": True}, "from 0 to 20"),
        ({"echo": True, "logprobs": 1, "stream": True}, "can't be streamed"),
        ({"max_tokens": 0, "echo": True, "temperature": 9}, "temperature"),
        ({"messages": []}, "there is no field"),
    ],
    ids=str,
)
def test_what_can_not_be_answered_is_refused(api: Api, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError, match=told) as caught:
        TextCompletion(api, {**ASKED, **wrong})
    assert caught.value.status == 400
