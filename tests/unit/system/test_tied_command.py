"""Commands that end with the process that started them, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steer_lightning.system.tied_command import TiedCommand

FAMILY = """
import os, subprocess, sys
stays = [sys.executable, "-c", "import time; time.sleep(600)"]
children = [subprocess.Popen(stays), subprocess.Popen(stays, start_new_session=True)]
print(os.getpid(), *(child.pid for child in children), flush=True)
import time; time.sleep(600)
"""
"""A command with a child, and with one that has left its session."""

TRAINER = """
import sys, time
from steer_lightning.system.tied_command import TiedCommand
command = TiedCommand([sys.executable, "-c", sys.argv[1]], "tied", {})
print(command.output, flush=True)
time.sleep(600)
"""


def family(output: Path) -> list[int]:
    """Waits for the ids of the command and its children."""
    while not output.read_text().endswith("\n"):
        time.sleep(0.02)
    return [int(word) for word in output.read_text().split()]


def wait_for_the_end(pids: list[int]) -> None:
    while any(is_running(pid) for pid in pids):
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.multi_process
def test_it_ends_with_all_that_it_has_started() -> None:
    command = TiedCommand([sys.executable, "-c", FAMILY], "tied", {})
    pids = family(command.output)
    assert all(map(is_running, pids))
    assert command.status() is None
    command.end()
    wait_for_the_end(pids)
    command.output.unlink()


@pytest.mark.multi_process
def test_it_ends_when_the_trainer_is_killed() -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, FAMILY], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    output = Path(trainer.stdout.readline().strip())
    pids = family(output)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    wait_for_the_end(pids)
    output.unlink()


@pytest.mark.multi_process
def test_its_status_and_output_can_be_seen() -> None:
    code = "import os, sys; print(os.environ['SECRET']); print('b'); sys.exit(3)"
    command = TiedCommand([sys.executable, "-c", code], "tied", {"SECRET": "a"})
    while command.status() is None:
        time.sleep(0.02)
    assert command.status() == 3
    assert command.last_lines() == "a\nb"
    assert command.last_lines(1) == "b"
    command.output.unlink()
