"""Rewards: right, wrong, can't be scored; and what a user's own may return."""

from __future__ import annotations

import math

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import (
    FormatReward,
    LengthReward,
    MathReward,
    RewardSum,
    WeightedReward,
)
from steer_lightning.rewards.math import find_answer, last_boxed, plain_number
from steer_lightning.testing import check_reward
from steer_lightning.types import Completion


def completion(
    text: str, answer: str = "42", num_tokens: int = 5, finished: bool = True
) -> Completion:
    return Completion(
        text=text, question="q", answer=answer, num_tokens=num_tokens, finished=finished
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{7} and \boxed{cut of", "7"),
        (r"\boxed{never closed", None),
        (r"\boxed{}", None),
        ("no box 42", None),
    ],
)
def test_last_boxed_answer(text: str, expected: str | None) -> None:
    assert find_answer(text) == expected


def test_where_the_answer_is_looked_for() -> None:
    text = r"\boxed{1} or rather 1,234.50"
    assert find_answer(text, "last_number") == "1,234.50"
    assert find_answer(text, "boxed_or_last_number") == "1"
    assert find_answer("it is -7.", "boxed_or_last_number") == "-7"
    assert find_answer("none", "last_number") is None
    assert last_boxed("") is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("42", "42", 1.0),
        ("42.0", "42", 1.0),
        ("1,234", "1234", 1.0),
        ("43", "42", 0.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        (r"\frac{2}{4}", r"\frac{1}{2}", 1.0),
        ("x+1", "1+x", 1.0),
        ("x+2", "1+x", 0.0),
        (r"\$42", "42", 1.0),
        ("(1,2)", "(1, 2)", 1.0),
        ("", "42", 0.0),
        ("the answer", "42", 0.0),
        ("9**9", "9", 0.0),  # no number is picked out of what can't be read
        ("1 . 40 + 2", "42", 0.0),  # nor is Python asked
        ("42)", "42", 0.0),
        (
            "\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}",
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            1.0,
        ),
    ],
)
def test_mathematical_equality(answer: str, gold: str, expected: float) -> None:
    assert MathReward()([completion(rf"\boxed{{{answer}}}", gold)]) == [expected]


def test_an_unparseable_gold_answer_is_none_not_wrong() -> None:
    assert MathReward()([completion(r"\boxed{42}", "")]) == [None]
    assert MathReward()([completion("no answer", "")]) == [None]


def test_the_gold_answer_may_be_a_whole_solution() -> None:
    assert MathReward()([completion(r"\boxed{0.25}", r"We find \boxed{\frac{1}{4}}.")]) == [1.0]


def test_unclosed_boxes_cost_no_more_than_other_text() -> None:
    unclosed = r"\boxed{" * 150_000  # a megabyte; to look from each box to the end would take hours
    assert last_boxed(unclosed) is None
    assert last_boxed(r"\boxed{7}" + unclosed) == "7"


def test_a_megabyte_of_digits_is_no_plain_number() -> None:
    assert plain_number("9" * 1_000_000) is None
    assert plain_number("-1,000.5") == -1000.5
    assert plain_number("1,00") is None


def test_format_and_length() -> None:
    forms = [r"\boxed{1}", r"\boxed{1", r"\boxed{}", "1", r"\boxed{\frac{1}{2}} so"]
    assert FormatReward()([completion(form) for form in forms]) == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert FormatReward("^a.b$")([completion("a\nb")]) == [1.0]
    lengths = [completion("", num_tokens=n) for n in (10, 20, 25, 30, 99)]
    assert LengthReward(20, 30)(lengths) == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_wrong_settings_are_errors() -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        FormatReward("(")
    with pytest.raises(ConfigError, match="above free_tokens = 30"):
        LengthReward(30, 30)
    with pytest.raises(ConfigError, match="at least one reward"):
        RewardSum([WeightedReward(reward=FormatReward(), weight=0.0)])
    with pytest.raises(ConfigError, match="finite"):
        WeightedReward(reward=FormatReward(), weight=math.inf)


def test_the_weighted_sum_by_hand() -> None:
    def half(completions):
        return [0.5, None, 1.0]

    def logged(completions):
        return [None, 7, 8]

    parts = [WeightedReward(reward=half, weight=2.0), WeightedReward(reward=half, weight=1.0)]
    scores = RewardSum([*parts, WeightedReward(reward=logged, weight=0.0)])([completion("")] * 3)
    assert scores.total == [1.5, None, 3.0]  # None where a part that counts is None
    assert scores.parts == {
        "half": [0.5, None, 1.0],
        "half_2": [0.5, None, 1.0],
        "logged": [None, 7.0, 8.0],
    }


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "one score for each of 2"),
        ([1.0, float("nan")], "finite"),
        ([1.0, float("inf")], "finite"),
        (["1", 2], "finite numbers"),
        (1.0, "list of numbers"),
        ("ab", "list of numbers"),
        (None, "list of numbers"),
    ],
)
def test_what_a_reward_must_not_return(returned: object, message: str) -> None:
    def mine(completions):
        return returned

    with pytest.raises(ConfigError, match=f"reward mine.*{message}"):
        RewardSum([WeightedReward(reward=mine)])([completion(""), completion("")])


def test_a_crash_is_never_a_reward() -> None:
    def mine(completions):
        raise KeyError("oops")

    with pytest.raises(KeyError):
        RewardSum([WeightedReward(reward=mine)])([completion("")])


def test_check_reward() -> None:
    rows = [completion(r"\boxed{42}"), completion("no")]
    assert check_reward(MathReward(), rows) == [1.0, 0.0]

    def by_position(completions):
        return list(range(len(completions)))

    def by_size(completions):
        return [float(len(completions))] * len(completions)

    with pytest.raises(AssertionError, match="another order"):
        check_reward(by_position, rows)
    with pytest.raises(AssertionError, match="alone"):
        check_reward(by_size, rows)
