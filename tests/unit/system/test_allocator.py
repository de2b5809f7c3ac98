"""Memory that was freed goes back to the system, whatever the C library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from steer_lightning.system import allocator

SCRIPT = """
import threading
from pathlib import Path
from steer_lightning.system import allocator

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

def work():
    # 200 MB in small pieces, with a last one in the way of the heap's end
    pieces = [bytes(16_000) for _ in range(13_000)]
    ends.append(bytes(16_000))
    pieces.clear()

ends = []
allocator.share_between_threads()
before = resident()
for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
between = resident()
allocator.give_back()
print(between - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_share_memory_and_give_it_back() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    between, after = map(float, done.stdout.split())
    assert between < 400  # four threads that keep 200 MB each would hold 800
    assert after < 50


def test_other_c_libraries_lack_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", asked.append)
    allocator.share_between_threads()
    allocator.give_back()
    assert asked == [None, None]
