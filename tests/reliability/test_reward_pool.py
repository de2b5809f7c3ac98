"""The reward pool under harm that is really done: no text and no reward holds it up."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from steer_lightning.rewards import MathReward, RewardPool
from steer_lightning.system.printable import printable
from tests.reliability import hostile
from tests.reliability.conftest import Figure
from tests.reliability.hostile import boxed, make
from tests.reliability.pool_family import children, descendants, left_behind, rewards, the_keeper

DEADLINE = 1.0
FOUND_OUT = f"exit status {hostile.FOUND_OUT}"
SLACK = 3.0  # seconds that a loaded machine may be late


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_every_hostile_completion_gets_a_verdict_inside_its_deadline(
    figure: Figure, capfd: pytest.CaptureFixture[str]
) -> None:
    completions = hostile.hostile_completions()
    assert len(completions) >= 300
    good = make(r"\boxed{\frac{2}{4}}", r"\frac{1}{2}")
    with closing(RewardPool(num_workers=2, deadline=DEADLINE, memory_mb=256)) as pool:
        number = pool.register(hostile.WatchedMath())
        pool.collect([pool.submit(number, good)])  # starting is not the completions' fault
        start = time.monotonic()
        batch = [row for completion in completions for row in (completion, good)]
        every = pool.collect([pool.submit(number, completion) for completion in batch])
        seconds = time.monotonic() - start
    answers = every[::2]
    assert {answer["outcome"] for answer in every[1::2]} == {"right"}, "the good ones between them"
    found_out = [
        row.text
        for row, answer in zip(completions, answers, strict=True)
        if FOUND_OUT in answer["detail"]
    ]
    assert not found_out, "what a model writes is never run"
    told = capfd.readouterr()
    assert printable(told.out + told.err) == told.out + told.err, "workers share the console"
    outcomes = Counter(answer["outcome"] for answer in answers)
    late = outcomes["timed_out"] + outcomes["crashed"]
    assert late < len(completions) / 3, "no verdict is for bombs alone"
    assert seconds < late * DEADLINE + 60, "each costs one deadline at most; two workers share them"
    assert set(outcomes) <= {
        *("right", "wrong", "no_answer", "unparseable", "unscored", "timed_out", "crashed")
    }
    assert max(answer["seconds"] for answer in answers) < DEADLINE + SLACK
    right = {row.text for row, answer in zip(completions, answers, strict=True) if answer["score"]}
    assert right == {"\\boxed{\u0664\u0662}"}, "none but 42 in another script's digits"
    assert outcomes["timed_out"] >= 1, "some of them are bombs, or this tests nothing"
    figure("hostile_completions", len(completions))
    for outcome, count in outcomes.items():
        figure(f"hostile_{outcome}", count)


def test_text_that_is_run_would_be_noticed() -> None:
    with closing(RewardPool(num_workers=1, deadline=60)) as pool:
        number = pool.register(hostile.WatchedMath())
        tasks = [pool.submit(number, make(text)) for text in ("eval: 6 * 7", boxed("42"))]
        caught, fine = pool.collect(tasks)
    assert FOUND_OUT in caught["detail"]
    assert fine["outcome"] == "right"


@pytest.mark.usefixtures("nothing_left")
def test_every_deed_of_a_reward_is_survived(figure: Figure) -> None:
    deeds, before = list(hostile.DEEDS), descendants(os.getpid())
    with closing(RewardPool(num_workers=2, deadline=DEADLINE, memory_mb=256)) as pool:
        total = rewards(pool, hostile.misbehave)
        texts = [text for deed in deeds for text in (deed, "good")]
        scores = total([make(text) for text in texts])
        again = total([make("good")] * 10)
        assert len(descendants(os.getpid()) - before) <= 3, "the keeper and two workers"
        assert not left_behind(), "not even while the run goes on"
    found = dict(zip(texts, scores.total, strict=True))
    assert {text for text, score in found.items() if score == 1.0} == {"good", *hostile.WITH_SCORE}
    assert scores.total[1::2] == [1.0] * len(deeds), "the others of the batch are scored"
    outcomes = scores.outcomes["misbehave"]
    assert outcomes["timed_out"] >= len(hostile.TOO_LONG)
    assert outcomes["timed_out"] + outcomes["crashed"] == len(deeds) - len(hostile.WITH_SCORE)
    assert again.total == [1.0] * 10
    figure("reward_deeds", len(deeds))


def test_the_memory_of_a_worker_is_capped() -> None:
    with closing(RewardPool(num_workers=1, deadline=60, memory_mb=128)) as pool:
        number = pool.register(hostile.misbehave)
        (grown,) = pool.collect([pool.submit(number, make("grow"))])
        (after,) = pool.collect([pool.submit(number, make("good"))])
    assert grown["outcome"] == "crashed"
    assert "MemoryError" in grown["detail"]
    assert after["score"] == 1.0


def test_an_answer_that_takes_all_memory_is_wrong_by_its_own_doing() -> None:
    power = make(boxed("(x+1)^{100000}"), r"\sqrt{2}")
    good = make(r"\boxed{\frac{2}{4}}", r"\frac{1}{2}")
    with closing(RewardPool(num_workers=1, deadline=60, memory_mb=128)) as pool:
        scores = rewards(pool, MathReward())([power, good, make(r"\boxed{3}", r"\sqrt{2}")])
    assert scores.total == [0.0, 1.0, 0.0]
    assert scores.outcomes["MathReward"]["incomparable"] == 1


@pytest.mark.usefixtures("nothing_left")
def test_one_bad_completion_costs_one_deadline() -> None:
    deadline = 4.0
    with closing(RewardPool(num_workers=2, deadline=deadline)) as pool:
        total = rewards(pool, hostile.misbehave)
        total([make("good")])
        start = time.monotonic()
        scores = total([make("good"), make("sleep"), *[make("good")] * 500])
        seconds = time.monotonic() - start
    assert scores.total == [1.0, None, *[1.0] * 500]
    assert scores.outcomes["misbehave"] == {"timed_out": 1, "crashed": 0}
    assert deadline <= seconds < 2 * deadline


@pytest.mark.usefixtures("nothing_left")
def test_a_worker_killed_from_outside_costs_nothing() -> None:
    with closing(RewardPool(num_workers=2, deadline=30)) as pool:
        total = rewards(pool, hostile.misbehave)
        total([make("good")] * 4)
        keeper = the_keeper()
        workers = children(keeper)
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert total([make("good")] * 50).outcomes["misbehave"]["crashed"] == 0
        os.kill(keeper, signal.SIGKILL)  # and the keeper itself
        assert total([make("good")] * 50).total == [1.0] * 50
        os.kill(the_keeper(), signal.SIGKILL)
        scoring = total.start()
        scoring.add(0, make("good"))
        assert scoring.result([make("good")] * 2).total == [1.0, 1.0]


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_keeper_leaves_no_daemon_of_a_reward() -> None:
    with closing(RewardPool(num_workers=1, deadline=30)) as pool:
        number = pool.register(hostile.misbehave)
        pool.collect([pool.submit(number, make("good"))])
        pool.submit(number, make("daemon, then sleep"))
        deadline = time.monotonic() + 10
        while not left_behind() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert left_behind()
        os.kill(the_keeper(), signal.SIGKILL)
        pool.forget(2)
        assert pool.collect([pool.submit(number, make("good"))])[0]["score"] == 1.0
        assert not left_behind()


@pytest.mark.usefixtures("nothing_left")
def test_loading_may_take_longer_than_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer_lightning.rewards.pool.PATIENCE", 0.5)
    with closing(RewardPool(num_workers=1, deadline=0.5)) as pool:
        total = rewards(pool, hostile.SlowToLoad())
        assert total([make("x")] * 3).total == [1.0] * 3
        assert pool._count == 3


def test_when_the_training_process_is_killed_its_workers_go_with_it(tmp_path: Path) -> None:
    import subprocess

    script = """
import sys, time
from steer_lightning.rewards import RewardPool
from tests.reliability import hostile
pool = RewardPool(num_workers=2, deadline=1000)
number = pool.register(hostile.misbehave)
pool.collect([pool.submit(number, hostile.make("good"))])
for deed in ("loop", "block signals"):
    pool.submit(number, hostile.make(deed))
time.sleep(0.5)
print("ready", flush=True)
time.sleep(1000)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        family = descendants(process.pid)
        assert len(family) == 3  # the keeper and two workers
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


@pytest.mark.usefixtures("nothing_left")
def test_scoring_goes_on_while_others_are_sampled() -> None:
    with closing(RewardPool(num_workers=1, deadline=5)) as pool:
        scoring = rewards(pool, hostile.misbehave).start()
        scoring.add(1, make("other"))
        scoring.add(1, make("good"))  # a rollout that began anew: the first one's place is taken
        # nobody waits for the scores yet, and they come in all the same
        assert select.select([pool._connection], [], [], 60)[0]
        assert scoring.result([make("good"), make("good")]).total == [1.0, 1.0]
        assert not pool._answers, "that of the completion that was replaced does not stay"


def test_a_reward_that_floods_its_connection_is_stopped_before_the_keeper_takes_it_in() -> None:
    with closing(RewardPool(num_workers=1, deadline=20)) as pool:
        number = pool.register(hostile.flood)
        (answer,) = pool.collect([pool.submit(number, make("x"))])
    assert answer["outcome"] == "crashed"
    assert answer["seconds"] < 10
