"""Processes that watch each other: how one of them ends or is stopped, the other one tells."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from steer_lightning.system import peer_watch
from steer_lightning.system.peer_watch import PeerWatch

BOTH = """
import json, os, sys, time
from steer_lightning.errors import ConfigError
from steer_lightning.system.peer_watch import PeerWatch, all_arrive
rank = int(sys.argv[1])
def broadcast(door):
    if rank:
        return json.loads(sys.argv[2])
    print(json.dumps(door), flush=True)
    return door
watch = PeerWatch(rank, 2, "127.0.0.1", broadcast)
"""


def pair(first: str, second: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs two processes, each of which does something once the first one has its door open."""
    command = [sys.executable, "-c"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    one = subprocess.Popen([*command, BOTH + first, "0"], **streams)  # type: ignore[call-overload]
    assert one.stdout is not None
    door = one.stdout.readline().strip()
    two = subprocess.Popen([*command, BOTH + second, "1", door], **streams)  # type: ignore[call-overload]
    ended = []
    for process in (one, two):
        said, told = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, said, told))
    return ended


LEAVES, WAITS = "watch.leave()", "time.sleep(60)"


def test_one_that_leaves_regularly_is_not_missed() -> None:
    waits = "\nwhile watch._selector.get_map(): time.sleep(0.01)\nprint('went on')"
    first, second = pair(waits, LEAVES)
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout == "went on\n"
    assert first.stderr == second.stderr == ""


@pytest.mark.parametrize(
    ("error", "told", "status"),
    [
        ("ConfigError('a.key', 3, rule='is odd')", "process 1: a.key = 3: is odd", 2),
        ("LookupError('no judge')", "process 1: LookupError: no judge", 1),
    ],
)
def test_the_other_says_why_one_has_failed(error: str, told: str, status: int) -> None:
    first, _ = pair(WAITS, f"watch.leave({error})")
    assert first.returncode == status
    assert first.stderr.startswith(f"error: {told}. Process 0 of 2 stops, too; ")


TOO_EARLY = """
import socket
peer = socket.create_connection(("127.0.0.1", watch._listener.getsockname()[1]))
hello, end = {"token": watch._token, "rank": 1}, {"failed": "process 1: too early", "status": 2}
peer.sendall("".join(json.dumps(message) + chr(10) for message in (hello, end)).encode())
time.sleep(60)
"""
"""A stand-in for the second process, which fails as soon as it has connected."""


def test_a_failure_right_after_the_connection_is_heard() -> None:
    command = [sys.executable, "-c", BOTH + TOO_EARLY, "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 2
    assert "error: process 1: too early. Process 0" in done.stderr


@pytest.mark.parametrize("dies", [0, 1])
def test_one_that_ends_without_a_word_is_noticed_by_the_other(dies: int) -> None:
    end = "\nwhile not watch._names: time.sleep(0.01)\nos._exit(9)"
    ended = pair(*((end, WAITS) if dies == 0 else (WAITS, end)))
    assert ended[dies].returncode == 9
    assert ended[1 - dies].returncode == 1
    told = f"process {dies} ended without giving a reason. Process {1 - dies} of 2 stops, too"
    assert told in ended[1 - dies].stderr


def test_one_process_alone_watches_nobody() -> None:
    alone = BOTH.replace("rank, 2,", "rank, 1,") + "\nassert not watch._selector.get_map()"
    command = [sys.executable, "-c", alone + "\nwatch.leave(KeyError())", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "null\n", "")


@pytest.mark.parametrize(("seconds", "status"), [(0.01, 1), (60, 0)])
def test_processes_arrive_in_time_or_end(seconds: float, status: int) -> None:
    waits = f"with all_arrive({seconds / 60}, 'first.host'): time.sleep(0.3)"
    command = [sys.executable, "-c", BOTH.partition("rank =")[0] + waits]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == status
    assert ("not all processes have connected to the first one, on first.host" in done.stderr) == (
        status == 1
    )


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
    monkeypatch.setattr(peer_watch, "BEAT", 0.2)
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
        for _ in range(15):  # longer than MISSED beats of the first process
            say(beat=True)
            time.sleep(0.1)
        assert not said
        assert eventually(lambda: len(said) == 1)
        assert said[0].startswith("process 1 has been silent for 1 s: it was stopped")
        time.sleep(0.2)
        assert len(said) == 1, "it is told once"
        heard = other.recv(100_000)
        # none is sent while nobody reads
        assert set(heard.split(b"\n")) == {b'{"beat": true}', b""}
        say(beat=True)
        assert eventually(lambda: len(said) == 2)
        assert said[1] == "process 1 runs again"
        assert eventually(lambda: b"beat" in other.recv(100_000)), "beats are sent again"
        say(left=True)
        assert eventually(lambda: not watch._names)
