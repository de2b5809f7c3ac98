"""When the reward or the entropy of a run counts as collapsed, worked out on made-up series."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch

from steer_lightning.callbacks.collapse import (
    Course,
    Fall,
    Point,
    entropy_collapse,
    point_of,
    reward_collapse,
)
from tests.made_up_step import make_step

NAN = float("nan")


def point(means: Sequence[float], entropy: float = 1.0, silent: float = 0.0) -> Point:
    total, squares = sum(means), sum(mean**2 for mean in means)
    return Point(len(means), total, squares, min(means), max(means), entropy, silent)


def some_right(share: float, prompts: int = 32) -> list[float]:
    """Prompts of which a share is always answered right, and the others never."""
    right = round(share * prompts)
    return [1.0] * right + [0.0] * (prompts - right)


def falls(series: Iterable[Point]) -> list[tuple[int, Fall]]:
    course = Course()
    found = ((step, course.add(one)) for step, one in enumerate(series, 1))
    return [(step, fall) for step, fall in found if fall is not None]


def entropy_falls(series: Iterable[Point]) -> list[int]:
    course, found = Course(), []
    for step, one in enumerate(series, 1):
        course.add(one)
        found += [step] if course.entropy_fall() is not None else []
    return found


def test_a_step_is_read_prompt_by_prompt() -> None:
    found = point_of(make_step())
    # rewards 1, 0 and none, 1: means 1/2 and 1; 8 nats of log-probability over 8 tokens
    expected = {"prompts": 2, "total": 1.5, "squares": 1.25, "lowest": 0.5, "highest": 1.0}
    assert {key: getattr(found, key) for key in expected} == expected
    assert found.entropy == 1.0
    assert found.silent == 0.5
    none = replace(make_step(), rewards=torch.full((2, 2), NAN))
    assert point_of(none).prompts == 0


def test_a_reward_that_rises_and_breaks_is_noticed_three_steps_later() -> None:
    rewards = (0.25, 0.75, 0.0, 0.0, 0.0, 0.0)
    entropies = (0.3, 0.1, 0.5, 1.5, 1.5, 1.5)
    series = [point(some_right(x), y) for x, y in zip(rewards, entropies, strict=True)]
    (step, fall), *_ = falls(series)
    # the best window is that of the first two steps, with mean 1/2: half of it is lost where the
    # last three steps are (0.75 + 0 + 0) / 3 = 1/4, and by step 5 enough is lost for chance:
    # v = 32/160 * (1 - 32/160) is 0.16 behind 64 and 96 prompts, 5.5 sqrt(v (1/64 + 1/96)) = 0.36
    assert step == 5
    assert fall == Fall(0.5, 0.0, 3, pytest.approx(0.2), pytest.approx(3.5 / 3))


def test_four_prompts_a_step_need_four_steps_for_a_sudden_collapse() -> None:
    series = [point([1.0] * 4)] * 10 + [point([0.0] * 4)] * 10
    # 16 prompts are the shorter window; 5.5 sqrt(1/4 * 2/16) = 0.97 of 1 is lost after four steps.
    # After three, 4 of 16 are still right: v is 20/32 * 12/32, and 5.5 sqrt(v/8) = 0.94 above 0.75
    assert falls(series)[0][0] == 14


def test_a_reward_of_a_half_needs_the_longer_window() -> None:
    half = [point([1.0, 0.0, 1.0, 0.0])] * 40
    found = falls([*half, *[point([0.0] * 4)] * 40])
    # 16 steps are the longer window; n of 64 right: 0.5 - n/64 >= 5.5 sqrt(v / 32), v = q (1 - q)
    # for q = (32 + n) / 128. It holds for n = 4 (0.4375 > 0.437), and not for 6 (0.406 < 0.444);
    # there are 2 right of each step from before
    assert [found[0][0], found[0][1].num_steps] == [40 + 14, 16]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, 0.0), (-30.0, 10.0)], ids=["0..1", "-1..0", "-30..10"]
)
def test_rewards_of_any_sign_and_size_are_measured_from_the_lowest_prompt(
    low: float, high: float
) -> None:
    def scaled(share: float) -> Point:
        return point([low + (high - low) * x for x in some_right(share)])

    good, middle, bad = scaled(0.9), scaled(0.55), scaled(0.2)
    assert falls([good] * 5 + [bad] * 5)[0][0] == 7, "(0.906 + 2 * 0.188) / 3 < 0.453"
    assert falls([good] * 5 + [middle] * 20) == [], "less than half is lost"


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_a_constant_reward_has_not_collapsed(value: float) -> None:
    series = [point([value] * 8, entropy=math.exp(-k), silent=1.0) for k in range(50)]
    assert falls(series) == []
    assert entropy_falls(series) == []


def test_a_run_that_begins_at_zero_and_one_that_learns_are_healthy() -> None:
    zero = [point([0.0] * 32, silent=1.0)] * 20
    curve = [min(0.97, 0.02 * k) for k in range(60)]
    learns = [point(some_right(x), max(0.01, 0.3 * (1 - x)), x) for x in curve]
    for series in (zero, zero + learns, learns):
        assert falls(series) == []
        assert entropy_falls(series) == []


def test_steps_without_a_scored_completion_are_passed_over() -> None:
    none = Point(0, 0.0, 0.0, math.inf, -math.inf, 1.0, 1.0)
    assert falls([none] * 5) == []
    found = falls([none, *[point([1.0] * 32)] * 3, none, *[point([0.0] * 32)] * 3])
    assert found


@pytest.mark.parametrize("prompts", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_chance_is_no_collapse(prompts: int, share: float) -> None:
    """2,000 steps of prompts each of which is always or never answered: the noisiest case."""
    chance = random.Random(7)
    series = [point([float(chance.random() < share) for _ in range(prompts)]) for _ in range(2000)]
    assert falls(series) == []


def test_low_entropy_counts_only_with_a_poor_reward_and_groups_all_alike() -> None:
    start = point([1.0, *[0.0] * 31], entropy=2.7)

    def series(reward: float, entropy: float, silent: float) -> list[Point]:
        return [start, *[point(some_right(reward), entropy, silent)] * 6]

    # the first window of three steps without the first step ends with step 4
    assert entropy_falls(series(0.25, 0.26, 0.95))[0] == 4
    assert entropy_falls(series(0.25, 0.28, 0.95)) == [], "above a tenth of 2.7"
    assert entropy_falls(series(0.25, 0.26, 0.85)) == [], "some groups still have signal"
    assert entropy_falls(series(0.97, 0.01, 0.95)) == [], "solved"


def test_a_resumed_course_goes_on_as_if_it_had_not_stopped() -> None:
    chance = random.Random(3)
    series = [point([chance.random() for _ in range(4)], chance.random()) for _ in range(30)]
    series += [point([0.0] * 4, 0.01, 1.0)] * 20
    whole, resumed = Course(), Course()
    for step, one in enumerate(series):
        expected = whole.add(one), whole.entropy_fall()
        if step % 7 == 3:
            fresh = Course()
            fresh.load_state_dict(resumed.state_dict())
            resumed = fresh
        assert (resumed.add(one), resumed.entropy_fall()) == expected
    assert resumed.state_dict() == whole.state_dict()
    assert whole.entropy_fall() is not None


def test_the_warnings_name_figures_cause_and_a_rate_to_try() -> None:
    told = reward_collapse(Fall(0.492, 0.0, 3, 0.166, 1.23), 5, 0.5)
    assert "from 0.492 to 0 (means of prompts over 3 steps)" in told
    assert "the entropy rose from 0.166 to 1.23" in told
    assert "the learning rate 0.5 is too high. Start again with model.optimizer's lr 0.1," in told
    assert "KLToBase" in told
    assert told.endswith("No result from before is kept: none had been judged yet")
    told = entropy_collapse(Fall(2.7, 0.2, 3, 2.7, 0.2), 39, 2e-3, best_step=20)
    assert "from 2.7 to 0.2 nats" in told
    assert "lr 0.0004" in told
    assert told.endswith("The best result so far, of step 20, is kept as best")
    assert "temperature" in told
