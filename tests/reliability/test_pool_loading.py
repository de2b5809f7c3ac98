"""A keeper that loads rewards lives as long as its run: neither longer nor shorter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.rewards import LengthReward, RewardPool
from steer_lightning.rewards.pool import marked
from steer_lightning.rewards.pool_keeper import BEAT
from steer_lightning.types import Completion
from tests.reliability.pool_family import the_keeper

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ONE = Completion(text="", question="", answer="", num_tokens=1, finished=True)


class Slow:
    """Is loaded once the file that it names is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def warm_up(self) -> None:
        self.path.with_suffix(".loading").touch()
        while self.path.exists():
            time.sleep(0.01)

    def __call__(self, completions: list[Completion]) -> list[float]:
        return [float(threading.active_count())] * len(completions)


class Mistaken:
    """Raises a ConfigError when it is loaded."""

    def warm_up(self) -> None:
        LengthReward(30, 30)

    def __call__(self, completions: list[Completion]) -> list[float]:
        return [1.0] * len(completions)


WAITS = """
import sys, time
from pathlib import Path
from steer_lightning.rewards import RewardPool
from tests.reliability.test_pool_loading import Slow
pool = RewardPool(num_workers=1)
pool.register(Slow(Path(sys.argv[1])))
pool.start()
time.sleep(600)
"""


@pytest.fixture
def holds(tmp_path: Path) -> Path:
    """A file; while it is there, `Slow` is being loaded."""
    path = tmp_path / "holds"
    path.touch()
    return path


@pytest.fixture
def run(holds: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that loads a reward and waits; killed after the test, with its pool."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", WAITS, str(holds)], env=env)
    yield process
    process.kill()
    process.wait()
    for pid in marked(f"{process.pid}-"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # nobody may be there to bury it


def test_it_ends_with_its_run(run: subprocess.Popen[bytes], holds: Path) -> None:
    assert until(holds.with_suffix(".loading").exists), "the keeper loads the reward"
    (keeper,) = marked(f"{run.pid}-")
    run.kill()
    run.wait()
    assert until(lambda: has_ended(keeper), 20)


def test_it_outlives_the_thread_that_has_started_it(holds: Path) -> None:
    with closing(RewardPool(num_workers=1, deadline=30)) as pool:
        number = pool.register(Slow(holds))
        is_loading: list[bool] = []

        def starts() -> None:
            pool.start()
            is_loading.append(until(holds.with_suffix(".loading").exists))

        thread = threading.Thread(target=starts)
        thread.start()
        thread.join()
        assert is_loading == [True]
        keeper = the_keeper()
        time.sleep(2 * BEAT)
        assert not has_ended(keeper)
        holds.unlink()
        (answer,) = pool.collect([pool.submit(number, ONE)])
        assert the_keeper() == keeper, "the same one has answered"
    assert answer["score"] == 1.0, "no worker is forked beside a thread"


def test_it_ends_at_once_where_its_run_has_ended_before() -> None:
    command = "import sys; from steer_lightning.rewards.pool_keeper import main; "
    command += "main(int(sys.argv[1]), 1)"
    ours, theirs = socket.socketpair()
    with ours, theirs:  # open all the time, as by a child that the run has left behind
        done = subprocess.run(
            [sys.executable, "-c", command, str(theirs.fileno())],
            check=False,
            timeout=60,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    assert done.returncode == -signal.SIGKILL


def test_a_mistake_in_settings_is_told_with_its_own_remedy_alone() -> None:
    with closing(RewardPool(num_workers=1)) as pool:
        number = pool.register(Mistaken())
        with pytest.raises(ConfigError, match="can't load Mistaken") as caught:
            pool.collect([pool.submit(number, ONE)])
    with pytest.raises(ConfigError) as inner:
        LengthReward(30, 30)
    assert str(inner.value) in str(caught.value)
    assert "in_process" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
