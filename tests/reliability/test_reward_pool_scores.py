"""What comes of the scores and failures of rewards in a pool."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import FormatReward, MathReward, RewardPool, Verdict
from tests.reliability import hostile
from tests.reliability.hostile import make
from tests.reliability.pool_family import rewards


def test_sets_of_strings_have_one_order_in_all_workers() -> None:
    found = set()
    for _ in range(3):
        with closing(RewardPool(num_workers=1)) as pool:
            found.update(rewards(pool, hostile.order_of_a_set)([make("x")]).total)
    assert len(found) == 1


def test_a_reward_that_is_added_while_tasks_are_open_loses_none() -> None:
    with closing(RewardPool(num_workers=1)) as pool:
        number = pool.register(hostile.misbehave)
        task = pool.submit(number, make("good"))
        assert pool.register(hostile.draws) == number + 1
        assert pool.collect([task])[0]["score"] == 1.0


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
        with pytest.raises(ConfigError, match=r"crashed on all(.|\n)*ValueError"):
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
