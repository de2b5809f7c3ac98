"""The web application, asked by plain HTTP: paths, keys, sizes, and clients that go away."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from steer_lightning.endpoint import app
from steer_lightning.endpoint.call import Api
from steer_lightning.inference.service import Dead
from tests.unit.endpoint.conftest import Running

ASKED = {"model": "one", "prompt": "two", "max_tokens": 4, "seed": 1}
LONG = {**ASKED, "max_tokens": 250, "n": 4}
SECONDS = 60
"""Longer than anything here takes."""


def ask(
    running: Running,
    path: str = "/v1/completions",
    body: Any = ASKED,
    method: str = "POST",
    **headers: str,
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=SECONDS)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    told = answer.read()
    connection.close()
    return answer.status, json.loads(told)


def test_models_are_listed(running: Running) -> None:
    status, told = ask(running, "/v1/models", method="GET")
    assert status == 200
    assert [model["id"] for model in told["data"]] == ["base", "one", "two", "infinite"]
    status, told = ask(running, "/v1/models/one@0.5", method="GET")
    assert (status, told["id"], told["object"]) == (200, "one@0.5", "model")
    assert ask(running, "/v1/models/three", method="GET")[0] == 404
    assert ask(running, "/health", method="GET") == (200, {"status": "ok", "open_requests": 0})


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/v1/embeddings", "POST", 404), ("/v1/completions", "GET", 405)],
)
def test_other_paths_are_told_which_there_are(
    running: Running, path: str, method: str, status: int
) -> None:
    found, told = ask(running, path, method=method)
    assert found == status
    assert "/v1/chat/completions" in told["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        ({**ASKED, "model": "three"}, 404, "model_not_found"),
        ({**ASKED, "temperature": 1e300}, 400, None),
        ({**ASKED, "prompt": "x" * 300}, 400, "context_length_exceeded"),
        ({**ASKED, "model": "infinite@2"}, 400, "not_finite"),
        ({**ASKED, "prompt": ["a"] * 6, "echo": True, "logprobs": 1}, 200, None),
        (b" " * (app.MOST_BYTES + 1), 413, "request_too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_answers_and_errors_have_their_status(
    running: Running, api: Api, body: Any, status: int, code: str | None
) -> None:
    wait_for(lambda: api.service.num_open == 0)  # an answer is out before its place is free
    found, told = ask(running, body=body)
    assert found == status
    assert status == 200 or (told["error"]["code"] == code and told["error"]["message"])


def test_a_key_is_asked_for(with_key: Running) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a-secret"}):
        status, told = ask(with_key, **headers)
        assert (status, told["error"]["code"]) == (401, "invalid_api_key")
        assert ask(with_key, "/v1/models", method="GET", **headers)[0] == 401
    assert ask(with_key, Authorization="Bearer a-secret")[0] == 200
    assert ask(with_key, Authorization="Bearer a-secret", Host="any.example")[0] == 200


def test_pages_of_other_sites_are_refused(running: Running) -> None:
    status, told = ask(running, Host="attacker.example")
    assert (status, told["error"]["code"]) == (403, "wrong_host")
    status, told = ask(running, Origin="http://attacker.example")
    assert (status, told["error"]["code"]) == (403, "wrong_origin")
    for origin in ("null", "http://["):
        assert ask(running, Origin=origin)[0] == 403
    assert ask(running, Host=f"localhost:{running.port}")[0] == 200
    assert ask(running, Origin=f"http://127.0.0.1:{running.port}")[0] == 200


def events_of(running: Running, body: Any) -> tuple[str | None, list[str]]:
    """Type of a streamed answer, and its events."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=SECONDS)) as asked:
        asked.request("POST", "/v1/completions", json.dumps({**body, "stream": True}))
        answer = asked.getresponse()
        kind, events = answer.getheader("content-type"), answer.read().decode().split("\n\n")
        assert events.pop() == ""
        return kind, [event.removeprefix("data: ") for event in events]


def test_a_stream_is_events(running: Running) -> None:
    kind, events = events_of(running, ASKED)
    assert kind == "text/event-stream; charset=utf-8"
    assert events.pop() == "[DONE]"
    texts = [json.loads(event)["choices"][0]["text"] for event in events]
    assert "".join(texts) == ask(running)[1]["choices"][0]["text"]


def test_an_error_is_the_last_event_of_a_stream(running: Running) -> None:
    _, (event,) = events_of(running, {**ASKED, "model": "infinite@2"})
    assert json.loads(event)["error"]["code"] == "not_finite"


@contextmanager
def waiting(running: Running, api: Api, body: Any) -> Iterator[socket.socket]:
    """A client that has sent a request, whose answer has begun."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=SECONDS) as client:
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}"
        client.sendall(f"{head}\r\n\r\n".encode() + content)
        wait_for(lambda: api.service.num_open > 0)
        yield client


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_rows(
    running: Running, api: Api, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, may_go = api.service._flight.step, []

    def held() -> Any:  # until the client has gone
        while not may_go:
            time.sleep(0.005)
        return step()

    monkeypatch.setattr(api.service._flight, "step", held)
    cancelled = []
    take = api.service._flight.take
    monkeypatch.setattr(api.service._flight, "take", lambda x: (cancelled.append(x), take(x)))
    with waiting(running, api, {**LONG, "stream": stream}) as client:
        wait_for(lambda: cancelled)
        client.close()
        wait_for(lambda: cancelled[0].is_cancelled)
    may_go.append(True)
    wait_for(lambda: api.service.num_open == 0)
    assert ask(running)[0] == 200


def test_too_many_requests_are_told_to_come_again(running: Running, api: Api) -> None:
    with waiting(running, api, {**LONG, "prompt": "a", "stream": True}):
        status, told = ask(
            running, body={**ASKED, "prompt": ["a"] * 6, "echo": True, "logprobs": 0}
        )
        assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
    wait_for(lambda: api.service.num_open == 0)


def test_after_the_death_of_the_engine_everything_says_so(
    running: Running, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.service, "_death", Dead("the thread has died (KeyError)"))
    for path, method in (("/health", "GET"), ("/v1/models", "GET"), ("/v1/completions", "POST")):
        status, told = ask(running, path, method=method)
        assert (status, told["error"]["code"]) == (503, "engine_dead")
        assert told["error"]["message"] == "the thread has died (KeyError)"


@pytest.mark.parametrize("at", ["tokens_of", "of"])
def test_long_texts_keep_nobody_waiting(
    running: Running, api: Api, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to encode a prompt nor to write the log-probabilities of an answer."""
    has_begun, may_go = threading.Event(), threading.Event()
    owner: Any = api if at == "tokens_of" else api.texts
    plain, found = getattr(owner, at), []

    def held(*args: Any) -> Any:
        has_begun.set()
        assert may_go.wait(SECONDS)
        return plain(*args)

    monkeypatch.setattr(owner, at, held)
    asking = threading.Thread(
        target=lambda: found.append(ask(running, body={**ASKED, "logprobs": 1}))
    )
    asking.start()
    assert has_begun.wait(SECONDS)
    assert ask(running, "/health", method="GET")[0] == 200
    may_go.set()
    asking.join()
    assert found[0][0] == 200


def test_a_body_that_does_not_come_ends_the_request(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", running.port), timeout=SECONDS) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 408")
