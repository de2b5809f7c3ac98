"""A hub that takes a connection and then is silent is told; any answer will do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from huggingface_hub import constants

from steer_lightning import ConfigError
from steer_lightning.system import hub_answers
from steer_lightning.system.hub_answers import hub_or_cache, why_unreachable


@contextmanager
def hub(answer: bytes | None) -> Iterator[str]:
    """A hub that gives one answer, or takes the connection and is silent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        if answer is not None:

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_answers, "SECONDS", 0.3)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_silent_hub_is_told_with_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(None) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        start = time.monotonic()
        with pytest.raises(ConfigError, match=r"does not answer within 0\.3 s") as caught:
            why_unreachable("model.base", "org/x", "Take a folder")
        assert 0.3 <= time.monotonic() - start < 10
        assert caught.match(r"model\.base = 'org/x'.*Take a folder; or set HF_HUB_OFFLINE=1")
        monkeypatch.setenv("HF_HUB_OFFLINE", "true")
        assert why_unreachable("model.base", "org/x", "") is None, "nobody is asked"


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Internal Server Error"])
def test_any_answer_will_do(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setattr(hub_answers, "SECONDS", 10.0)
        assert why_unreachable("model.base", "org/x", "") is None


def test_without_a_connection_only_the_cache_is_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with hub(None) as endpoint:
        pass  # nobody listens there any more
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for unreachable, told in (
        (endpoint, "Connection refused"),
        ("http://no.invalid", "no.invalid"),
    ):
        monkeypatch.setenv("HF_ENDPOINT", unreachable)
        with hub_or_cache("model.base", "org/x", ""):
            assert constants.is_offline_mode()
        assert not constants.is_offline_mode(), "later the network may be there again"
        assert f"the hub can't be reached ({unreachable}: " in caplog.messages[-1]
        assert told in caplog.messages[-1]


def test_with_a_connection_the_libraries_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as endpoint:
        monkeypatch.setattr(hub_answers, "SECONDS", 10.0)
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with hub_or_cache("model.base", "org/x", ""):
            assert not constants.is_offline_mode()


def test_what_is_no_address_is_left_to_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for odd in ("file:///etc/passwd", "no address"):
        monkeypatch.setenv("HF_ENDPOINT", odd)
        assert why_unreachable("model.base", "org/x", "") is None
