"""The address and the key of the server, which are checked before the base loads."""

from __future__ import annotations

import socket
import threading
from typing import Any

import openai
import pytest
import uvicorn

from steer_lightning.endpoint.connection import Connection
from steer_lightning.endpoint.server import (
    KEY_VARIABLE,
    SPARE_CONNECTIONS,
    Endpoint,
    is_local,
)
from steer_lightning.errors import ConfigError

SECONDS = 60


def test_only_loopback_addresses_are_of_this_machine_alone() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.0.1", "example.org", "")))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"port": 65536}, "port = 65536: must be from 0 to 65535"),
        ({"timeout": 0.0}, "timeout = 0.0: must be above 0"),
        ({"timeout": float("inf")}, "timeout = inf: must be above 0"),
        ({"max_requests": 1}, "max_requests = 1: must be at least 2"),
        ({"host": "0.0.0.0"}, f"needs a key.*Set the environment variable {KEY_VARIABLE}"),
        ({"host": "no such host", "api_key": "k"}, "host = 'no such host': is no address here"),
        ({"host": "192.0.2.1", "api_key": "k"}, "port = 0: can't be taken at 192.0.2.1"),
        ({"api_key": ""}, "api_key: must be ASCII text"),
        ({"api_key": "two words"}, "api_key: must be ASCII text"),
        ({"max_length": 28}, "max_length = 28: must be at least 32. Made-up texts"),
        ({"vectors": "nowhere"}, "there is no such file"),
    ],
    ids=str,
)
def test_mistakes_show_before_the_base_loads(
    base: str, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=told):
        Endpoint(**{"base": base, "port": 0, **options})


def test_a_port_in_use_is_refused(base: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port = {port}: can't be taken.*--port 0"):
            Endpoint(base=base, port=port)


def test_a_second_server_finds_the_port_taken_before_the_first_answers(base: str) -> None:
    first = Endpoint(base=base, port=0)
    try:
        with pytest.raises(ConfigError, match=f"port = {first.port}: can't be taken"):
            Endpoint(base=base, port=first.port)
    finally:
        first.socket.close()


def test_the_key_may_stand_in_the_environment(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "from-there")
    for options, expected in (({}, "from-there"), ({"api_key": "given"}, "given")):
        endpoint = Endpoint(base=base, port=0, host="0.0.0.0", **options)
        endpoint.socket.close()
        assert endpoint.key == expected


def test_a_server_for_others_warns_and_answers_those_with_the_key(
    base: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[uvicorn.Server] = []
    serve = uvicorn.Server.run
    monkeypatch.setattr(
        uvicorn.Server,
        "run",
        lambda self, **options: (servers.append(self), serve(self, **options)),
    )
    endpoint = Endpoint(base=base, port=0, host="0.0.0.0", api_key="k")
    ready = threading.Event()
    thread = threading.Thread(target=endpoint.run, args=[ready.set])
    thread.start()
    assert ready.wait(SECONDS)
    assert "whoever reaches this machine and has the key" in caplog.text
    url = endpoint.url.replace("0.0.0.0", "127.0.0.1")
    with openai.OpenAI(base_url=url, api_key="k", max_retries=5) as client:
        assert [model.id for model in client.models.list().data] == ["base"]
    with (
        openai.OpenAI(base_url=url, api_key="x") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    config = servers[0].config
    assert (config.http, config.limit_concurrency) == (Connection, 256 + SPARE_CONNECTIONS)
    servers[0].should_exit = True
    thread.join(SECONDS)
    assert not thread.is_alive()
