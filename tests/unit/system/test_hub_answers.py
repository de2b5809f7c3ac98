"""A hub that takes a connection and then is silent is told; any answer will do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from steer_lightning import ConfigError
from steer_lightning.system import hub_answers
from steer_lightning.system.hub_answers import check_hub_answers


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
            check_hub_answers("model.base", "org/x", "Take a folder")
        assert 0.3 <= time.monotonic() - start < 10
        assert caught.match(r"model\.base = 'org/x'.*Take a folder; or set HF_HUB_OFFLINE=1")
        monkeypatch.setenv("HF_HUB_OFFLINE", "true")
        assert check_hub_answers("model.base", "org/x", "") is None, "nobody is asked"


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Internal Server Error"])
def test_any_answer_will_do(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setattr(hub_answers, "SECONDS", 10.0)
        assert check_hub_answers("model.base", "org/x", "") is None


def test_no_network_is_left_to_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(None) as endpoint:
        pass  # nobody listens there any more
    for odd in (endpoint, "file:///etc/passwd", "no address"):
        monkeypatch.setenv("HF_ENDPOINT", odd)
        assert check_hub_answers("model.base", "org/x", "") is None
