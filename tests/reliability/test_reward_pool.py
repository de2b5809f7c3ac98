"""The reward pool under harm that is really done: no text and no reward holds it up."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import (
    AsyncReward,
    FormatReward,
    MathReward,
    RewardPool,
    RewardSum,
    Verdict,
    WeightedReward,
)
from steer_lightning.rewards.pool import marked
from steer_lightning.system.printable import printable
from tests.reliability import hostile
from tests.reliability.conftest import Figure
from tests.reliability.hostile import boxed, make

DEADLINE = 1.0
FOUND_OUT = f"exit status {hostile.FOUND_OUT}"
SLACK = 3.0  # seconds that a loaded machine may be late


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found |= {child} | descendants(child)
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def left_behind() -> list[int]:
    """What pools of this process have started, also what is nobody's child any more.

    Not the keepers and workers that are to live.
    """
    found = []
    for pid in marked(f"{os.getpid()}-"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"rewards.pool_keeper" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No process and no descriptor may be left behind."""
    processes, files = descendants(os.getpid()), descriptors()
    yield
    assert not marked(f"{os.getpid()}-")
    assert descendants(os.getpid()) <= processes
    assert descriptors() <= files


def rewards(pool: RewardPool, *parts: object) -> RewardSum:
    return RewardSum([WeightedReward(reward=part) for part in parts], pool)  # type: ignore[arg-type]


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


def test_sets_of_strings_have_one_order_in_all_workers() -> None:
    found = set()
    for _ in range(3):
        with closing(RewardPool(num_workers=1)) as pool:
            found.update(rewards(pool, hostile.order_of_a_set)([make("x")]).total)
    assert len(found) == 1


def test_rewards_are_not_added_while_tasks_are_open() -> None:
    with closing(RewardPool(num_workers=1)) as pool:
        number = pool.register(hostile.misbehave)
        task = pool.submit(number, make("good"))
        with pytest.raises(RuntimeError, match="collect them first"):
            pool.register(hostile.draws)
        assert pool.collect([task])[0]["score"] == 1.0


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def the_keeper() -> int:
    """Of this process's pool: other tests leave children of other kinds, such as a fork server."""
    (keeper,) = [
        child
        for child in children(os.getpid())
        if b"keeper" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return keeper


def test_when_the_training_process_is_killed_its_workers_go_with_it(tmp_path: Path) -> None:
    import subprocess
    import sys

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


def test_what_a_reward_returns_wrongly_stops_the_run_by_name() -> None:
    with closing(RewardPool(num_workers=1)) as pool:
        with pytest.raises(ConfigError, match=r"reward returns_two: .*2 scores"):
            rewards(pool, hostile.returns_two)([make("x")])
        with pytest.raises(ConfigError, match=r"reward returns_nan: .*finite.*nan"):
            rewards(pool, hostile.returns_nan)([make("x")])


class Undeclared:
    outcomes = ("right",)

    def __call__(self, completions):  # type: ignore[no-untyped-def]
        return [Verdict(0.0, "wrogn")]


class QuickAndWrong:
    def __call__(self, completions):  # type: ignore[no-untyped-def]
        return [1.0] * len(completions)

    def quickly(self, completion):  # type: ignore[no-untyped-def]
        return float("nan")


def test_outcomes_must_be_declared_and_quick_scores_be_numbers() -> None:
    with closing(RewardPool(num_workers=1)) as pool:
        with pytest.raises(ConfigError, match=r"(?s)reward Undeclared = 'wrogn'.*outcomes"):
            rewards(pool, Undeclared())([make("x")])
        with pytest.raises(ConfigError, match=r"(?s)QuickAndWrong.*finite"):
            rewards(pool, QuickAndWrong())([make("x")])


class Chess:
    outcomes = ("died", "crashed")

    def __call__(self, completions):  # type: ignore[no-untyped-def]
        return [Verdict(0.5, completions[0].text)]


def test_a_verdict_may_be_called_died_but_not_as_a_failure_is() -> None:
    with closing(RewardPool(num_workers=1)) as pool:
        with pytest.raises(ConfigError, match=r"reward Chess\.outcomes = \['crashed'\]"):
            rewards(pool, Chess())
        number = pool.register(Chess())
        (answer,) = pool.collect([pool.submit(number, make("died"))])
    assert (answer["score"], answer["outcome"]) == (0.5, "died")


def test_a_reward_that_floods_its_connection_is_stopped_before_the_keeper_takes_it_in() -> None:
    with closing(RewardPool(num_workers=1, deadline=20)) as pool:
        number = pool.register(hostile.flood)
        (answer,) = pool.collect([pool.submit(number, make("x"))])
    assert answer["outcome"] == "crashed"
    assert answer["seconds"] < 10


def test_crashes_are_counted_and_if_nothing_was_ever_scored_stop_the_run(caplog) -> None:
    with closing(RewardPool(num_workers=2)) as pool:
        total = rewards(pool, hostile.misbehave)
        scores = total([make("raise"), *[make("good")] * 3])
        assert scores.total == [None, 1.0, 1.0, 1.0]
        assert scores.outcomes["misbehave"] == {"timed_out": 0, "crashed": 1}
        assert "ValueError: no \\x1b[2J" in caplog.text, "told, with the traceback, harmless"
        caplog.clear()
        total([make("raise"), make("good")])
        assert not caplog.records, "told once"
        assert total([make("raise")] * 4).total == [None] * 4, "one bad prompt ends no run"
        with pytest.raises(ConfigError, match=r"crashed on every one(.|\n)*ValueError"):
            rewards(pool, hostile.misbehave)([make("raise")] * 4)


def test_a_reward_that_can_not_be_loaded_is_named_with_the_remedy() -> None:
    message = r"can't load Unloadable(.|\n)*in_process = True"
    with closing(RewardPool()) as pool, pytest.raises(ConfigError, match=message):
        rewards(pool, hostile.Unloadable())([make("x")])


def test_rewards_that_can_not_be_pickled_or_ask_for_it_run_here(caplog) -> None:
    seen = []

    def local(completions):  # type: ignore[no-untyped-def]
        seen.append(len(completions))
        return [0.5] * len(completions)

    class Here:
        in_process = True

        def __call__(self, completions):  # type: ignore[no-untyped-def]
            seen.append(os.getpid())
            return [0.25] * len(completions)

    with closing(RewardPool(num_workers=1)) as pool:
        total = rewards(pool, local, Here(), FormatReward())
        assert total([make(r"\boxed{1}")] * 3).total == [1.75] * 3
        assert pool._end is None, "no process was needed"
    assert seen == [3, os.getpid()]
    assert "reward local runs in the training process" in caplog.text
    assert "can't be pickled" in caplog.text
    assert "Here" not in caplog.text


def test_a_reward_that_draws_scores_a_text_alike_in_any_worker() -> None:
    texts = [f"text {n}" for n in range(40)]
    with closing(RewardPool(num_workers=3)) as pool:
        first = rewards(pool, hostile.draws)([make(text) for text in texts])
    with closing(RewardPool(num_workers=1)) as pool:
        second = rewards(pool, hostile.draws)([make(text) for text in texts[::-1]])
    assert first.total == second.total[::-1]
    assert len(set(first.total)) == 40


def test_outcomes_of_math_are_counted_apart() -> None:
    golds = ["42", "42", "42", r"\frac{1}{2}", r"\frac{1}{2}", r"\frac{1}{2}", r"\frac{1}{2}", ""]
    texts = [r"\boxed{42}", r"\boxed{41}", "none", r"\boxed{0.5}", r"\boxed{3}", "none"]
    texts += [r"\boxed{???}", r"\boxed{1}"]
    completions = [make(text, gold) for text, gold in zip(texts, golds, strict=True)]
    with closing(RewardPool(num_workers=1, deadline=30)) as pool:
        scores = rewards(pool, MathReward())(completions)
    assert scores.total == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, None]
    failures = {"timed_out": 0, "crashed": 0}
    right = {"right": 2, "wrong": 2, "no_answer": 2, "unparseable": 1, "incomparable": 0}
    assert scores.outcomes["MathReward"] == {**right, **failures}


def test_settings_out_of_range() -> None:
    for settings in (
        {"num_workers": 0},
        {"deadline": 0.0},
        {"deadline": float("nan")},
        {"memory_mb": 0},
    ):
        with pytest.raises(ConfigError, match=r"model\.reward_pool"):
            RewardPool(**settings)  # type: ignore[arg-type]


# ---- coroutines


class Server:
    """Stands for a remote judge that fails, hangs and counts."""

    outcomes = ("praised",)

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0

    async def __call__(self, completions):  # type: ignore[no-untyped-def]
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.02)
            text = completions[0].text
            if text == "hang":
                await asyncio.sleep(1000)
            if text == "exit":
                sys.exit(3)
            if text == "cancel":
                raise asyncio.CancelledError
            while text == "never":
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
            if text == "down" or (text == "flaky" and self.calls % 3):
                raise ConnectionError("no route")
            return [Verdict(1.0, "praised")]
        finally:
            self.now -= 1


@pytest.mark.usefixtures("nothing_left")
def test_coroutines_have_a_limit_a_deadline_and_retries() -> None:
    server = Server()
    judge = AsyncReward(server, deadline=0.5, max_concurrency=4, retries=2, backoff=0.01)
    with closing(rewards(RewardPool(), judge)) as total:
        assert total([make("good")] * 20).total == [1.0] * 20
        assert server.most == 4
        server.calls = 0
        assert total([make("flaky")]).total == [1.0]
        assert server.calls == 3
        scores = total([make("down"), make("hang"), make("good")])
        assert scores.total == [None, None, 1.0]
        assert scores.outcomes["Server"] == {"praised": 1, "timed_out": 1, "crashed": 1}
        assert server.calls == 3 + 3 + 1 + 1
        scores = total([make(text) for text in ("exit", "cancel", "never", "good")])
        assert scores.total == [None, None, None, 1.0]
        assert scores.outcomes["Server"] == {"praised": 1, "timed_out": 1, "crashed": 2}


def test_a_call_that_is_forgotten_ends() -> None:
    server = Server()
    judge = AsyncReward(server, deadline=100, max_concurrency=1)
    with closing(judge):
        call = judge.submit(make("hang"))
        until(lambda: server.now == 1)
        judge.forget(call)
        until(lambda: server.now == 0)
        assert judge([make("good")]) == [1.0], "its place is free"


def test_each_attempt_waits_twice_as_long_and_all_have_one_deadline() -> None:
    times: list[float] = []

    async def down(completions):  # type: ignore[no-untyped-def]
        times.append(time.monotonic())
        raise ConnectionError

    with closing(AsyncReward(down, retries=2, backoff=0.2)) as judge:
        judge([make("x")])
    first, second = times[1] - times[0], times[2] - times[1]
    assert len(times) == 3
    assert 0.2 <= first < 0.39
    assert 0.4 <= second < 0.79
    times.clear()
    with closing(AsyncReward(down, deadline=0.4, retries=5, backoff=0.3)) as judge:
        (answer,) = judge.collect([judge.submit(make("x"))])
    assert len(times) == 2, "the third would come after 0.9 s"
    assert answer["outcome"] == "timed_out"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()


async def plain_coroutine(completions):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0.01)
    return [2.0]


async def blocks(completions):  # type: ignore[no-untyped-def]
    time.sleep(2)
    return [2.0]


def test_a_coroutine_function_is_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(rewards(RewardPool(), plain_coroutine)) as total:
        assert total([make("x")] * 3).parts == {"plain_coroutine": [2.0] * 3}
    monkeypatch.setattr("steer_lightning.rewards.asynchronous.PATIENCE", 0.3)
    judge = AsyncReward(blocks, deadline=0.2)
    with pytest.raises(ConfigError, match="must not block its event loop"):
        judge([make("x")])
    time.sleep(2)
    judge.close()
    with pytest.raises(ConfigError, match="coroutine function"):
        AsyncReward(hostile.returns_two)
    with pytest.raises(ConfigError, match=r"AsyncReward\.retries = -1"):
        AsyncReward(blocks, retries=-1)
