"""What the first process hears of another one that is played by the test."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from steer_lightning.system import peer_watch
from steer_lightning.system.peer_watch import PeerWatch


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


@pytest.mark.filterwarnings("ignore:.*ResourceWarning")  # the watch keeps it open to its end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_process_that_is_stopped_is_told_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_watch, "BEAT", 0.02)
    said: list[str] = []
    monkeypatch.setattr(PeerWatch, "_say", staticmethod(said.append))
    doors: list[Any] = []

    def broadcast(door: Any) -> Any:
        doors.append(door)
        return door

    watch = PeerWatch(0, 2, "127.0.0.1", broadcast)
    _, port, token = doors[0]
    with socket.create_connection(("127.0.0.1", port)) as other:

        def say(**message: Any) -> None:
            other.sendall((json.dumps(message) + "\n").encode())

        say(token=token, rank=1)
        for _ in range(20):  # more than MISSED beats of the first process
            say(beat=True)
            time.sleep(0.02)
        assert not said
        assert eventually(lambda: len(said) == 1)
        assert said[0].startswith("process 1 has been silent for 0 s: it was stopped")
        time.sleep(0.2)
        assert len(said) == 1, "it is told once"
        heard = other.recv(100_000)
        # none is sent while nobody reads
        assert set(heard.split(b"\n")) == {b'{"beat": true}', b""}
        say(beat=True)
        assert eventually(lambda: len(said) == 2)
        assert said[1] == "process 1 goes on"
        assert eventually(lambda: b"beat" in other.recv(100_000)), "beats are sent again"
        say(left=True)
        assert eventually(lambda: not watch._names)
