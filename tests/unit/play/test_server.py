"""The playground refuses mistakes before the base loads, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.play.server import Play
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.live_request import LiveRequest
from tests import played

# Gradio uses what pandas is about to drop
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return played.make_run(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"port": 65536}, "port = 65536: must be from 0 to 65535"),
        ({"timeout": 0.0}, "timeout = 0.0: must be above 0"),
        ({"max_requests": 1}, "max_requests = 1: must be at least 2.*two answers"),
        ({"host": "no such host"}, "host = 'no such host': is no address here"),
        ({"vectors": []}, "vectors = .*: must name a file of vectors"),
        ({"vectors": "nowhere"}, "there is no such file"),
        ({"max_rows": 0}, "max_rows = 0: must be at least 1"),
    ],
    ids=str,
)
def test_mistakes_show_before_the_base_loads(run: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        played.play_quickstart(run, **options)


def test_a_port_in_use_is_refused(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port = {port}: can't be taken.*--port 0"):
            played.play_quickstart(run, port=port)


def test_vectors_of_another_base_are_refused(run: Path, tmp_path: Path) -> None:
    base = str(tmp_path / "other")
    from steer_lightning.testing import save_tiny

    save_tiny(base)
    with pytest.raises(ConfigError, match="does not fit"):
        played.play_quickstart(run, base=base)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(run: Path, number: signal.Signals) -> None:
    play = played.play_quickstart(run)
    found: list[Any] = []
    before = signal.getsignal(number)

    pieces: list[Any] = []

    def ready(url: str, link: str | None) -> None:
        asked = LiveRequest(
            token_ids=(5,) * 8,
            on_event=pieces.append,
            sampling=Sampling(group_size=4, max_new_tokens=400, eos_token_ids=[]),
        )
        play.playground.service.submit(asked)
        with urllib.request.urlopen(url, timeout=60) as answer:
            found.extend([answer.status, link])
        threading.Timer(0.0, os.kill, (os.getpid(), number)).start()

    with played.without_loops():
        play.run(ready)
    assert found == [200, None]
    ends = [piece.finish for piece in pieces if piece.finish is not None]
    assert len(ends) == 4, "answers under way are completed"
    assert signal.getsignal(number) is before
    with socket.socket() as free:  # nobody listens any more
        assert free.connect_ex(("127.0.0.1", play.port))


def test_other_hosts_and_public_links_are_warned_of(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_served(self: Play) -> None:
        raise InterruptedError

    monkeypatch.setattr(Play, "served", not_served)
    play = played.play_quickstart(run, host="0.0.0.0", share=True)
    monkeypatch.setattr(play.playground, "load", lambda: None)
    monkeypatch.setattr(play.playground, "close", lambda: None)
    with pytest.raises(InterruptedError):
        play.run(lambda url, link: None)
    assert "whoever reaches this machine can use the model" in caplog.text
    assert "whoever has the link can use the model" in caplog.text
