from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from steer_lightning.system.process_family import children, kill_group

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.mark.multi_process
def test_a_group_is_killed_by_the_given_signal() -> None:
    process = subprocess.Popen(SLEEPS, start_new_session=True)
    assert process.pid in children()
    kill_group(process.pid, signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    kill_group(process.pid)  # which has gone: no error


ORPHANS = """
import os, subprocess, sys
from steer_lightning.system.process_family import adopt_orphans, children, kill_orphans
adopt_orphans()
sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
known = subprocess.Popen(sleeps)
starts = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
subprocess.run([sys.executable, "-c", starts, *sleeps])
assert len(children()) == 2
kill_orphans({known.pid})
assert children() == {known.pid}
kill_orphans()
assert not children()
"""


@pytest.mark.multi_process
def test_orphans_are_adopted_and_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
