"""A process of a reward pool starts no pool."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
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


def test_a_module_that_starts_a_pool_when_it_is_imported(tmp_path: Path, end_all: Started) -> None:
    (tmp_path / "rewards_script.py").write_text(SCRIPT)
    process = start(tmp_path, "import rewards_script", end_all)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.splitlines() == ["level 0", "level 1"], "the keeper imports it once, and that is all"
    assert "a reward worker can't load brevity" in err
    assert "in_process" not in err, "which would start processes without end"
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
