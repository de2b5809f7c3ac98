"""A process of a reward pool starts no pool, and a keeper that loads rewards ends with its run."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.rewards import RewardPool, RewardSum, WeightedReward
from steer_lightning.rewards.pool import MARK, marked
from steer_lightning.types import Completion

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SCRIPT = """
import os
from steer_lightning.rewards import RewardPool, RewardSum, WeightedReward
from steer_lightning.types import Completion


def brevity(completions):
    return [1.0 for _ in completions]


level = int(os.environ.get("LEVEL", "0"))
print("level", level, flush=True)
if level < 3:  # without this bound it would start processes without end, were they not refused
    os.environ["LEVEL"] = str(level + 1)
    rewards = RewardSum([WeightedReward(reward=brevity)], RewardPool(num_workers=1, deadline=10))
    one = Completion(text="", question="", answer="", num_tokens=1, finished=True)
    print(rewards([one]).total)
    rewards.close()
"""

SLOW = """
import time
from pathlib import Path


class Slow:
    def warm_up(self):
        Path("loading").touch()
        time.sleep(600)

    def __call__(self, completions):
        return [1.0 for _ in completions]
"""

WAITS = """
import os, sys, time
sys.path.insert(0, os.getcwd())
from slow import Slow
from steer_lightning.rewards import RewardPool
pool = RewardPool(num_workers=1)
pool.register(Slow())
pool.start()
time.sleep(600)
"""


def limits() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


@pytest.fixture
def end_all() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are killed after the test, with the pools that they have started."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for pid in marked(f"{process.pid}-"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


Started = list[subprocess.Popen[str]]


def start(folder: Path, command: str, started: Started) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limits,
    )
    started.append(process)
    return process


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # nobody may be there to bury it


def until(holds: object, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_a_module_that_starts_a_pool_when_it_is_imported(tmp_path: Path, end_all: Started) -> None:
    (tmp_path / "rewards_script.py").write_text(SCRIPT)
    process = start(tmp_path, "import rewards_script", end_all)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.splitlines() == ["level 0", "level 1"], "the keeper imports it once, and that is all"
    assert "a reward worker can't load brevity" in err
    assert "must not start a run or a pool itself" in err
    assert "if __name__ == '__main__':" in err
    assert not marked(f"{process.pid}-")


class StartsOne:
    """Starts a pool when it scores."""

    def __call__(self, completions: list[Completion]) -> list[float]:
        with closing(RewardPool(num_workers=1)) as pool:
            pool.start()
        return [1.0] * len(completions)


def test_a_reward_that_starts_a_pool_when_it_scores() -> None:
    one = Completion(text="", question="", answer="", num_tokens=1, finished=True)
    with closing(RewardPool(num_workers=1, deadline=60)) as pool:
        number = pool.register(StartsOne())
        (answer,) = pool.collect([pool.submit(number, one)])
    assert answer["outcome"] == "crashed"
    assert "must not start a run or a pool itself" in answer["detail"]


def test_a_process_of_a_pool_refuses_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MARK, "1-1.")
    with closing(RewardPool(num_workers=1)) as pool:
        with pytest.raises(ConfigError, match="must not start a run or a pool"):
            pool.start()
        assert pool._end is None
    rewards = RewardSum([WeightedReward(reward=StartsOne())], RewardPool())
    one = Completion(text="", question="", answer="", num_tokens=1, finished=True)
    with pytest.raises(ConfigError, match="must not start a run or a pool"):
        rewards([one])


def test_a_keeper_that_is_still_loading_ends_with_its_run(tmp_path: Path, end_all: Started) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start(tmp_path, WAITS, end_all)
    assert until((tmp_path / "loading").exists, 120), "the keeper loads the reward"
    (keeper,) = marked(f"{process.pid}-")
    process.kill()
    process.wait()
    assert until(lambda: has_ended(keeper), 30)


def test_a_keeper_whose_run_has_ended_before_it_began_ends_at_once() -> None:
    command = "from steer_lightning.rewards.pool_keeper import main; main(0, 1); print('went on')"
    done = subprocess.run(
        [sys.executable, "-c", command],
        **{"capture_output": True, "text": True, "check": False, "timeout": 60},
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (0, "")
