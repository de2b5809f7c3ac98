"""Mathematically right, wrong, or not to be scored."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_lightning.rewards import MathReward, RewardPool, RewardSum, WeightedReward
from steer_lightning.rewards.base import INCOMPARABLE
from steer_lightning.rewards.math import find_answer, last_boxed, plain_number
from steer_lightning.types import Completion
from tests.unit.rewards.helpers import completion


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"So \boxed{4}. Also we", 1.0), (r"So \boxed{5}. Also we", 0.0), ("So", 0.0)],
)
def test_a_cut_off_completion_is_scored_like_any_other(text: str, expected: float) -> None:
    whole, cut_off = (completion(text, "4", finished=finished) for finished in (True, False))
    score, expected_score = MathReward()([cut_off, whole])
    assert score == expected_score == expected


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
    assert plain_number("1" + "+1" * 400_000) is None


def test_plain_numbers_are_read_exactly() -> None:
    sums = {"47+38": 85, "-3-4+1": -6, "$5-5$": 0, "007+1": 8}
    numbers = {"12.50": 12.5, r"\$12.": 12, "\u22127": -7, "1,234,567": 1234567}
    for text, value in (sums | numbers).items():
        assert plain_number(text) == value
    for text in ("", "-", "--5", "+5", "1+", "1.5+1", "1e3", "1/2", r"1\$2", "(5)", "5 6", "٣"):
        assert plain_number(text) is None, text


WHOLE = st.integers(-30, 30) | st.integers(-(10**18), 10**18)
TERMS = st.lists(st.tuples(st.sampled_from("+-"), WHOLE.map(abs)), min_size=2, max_size=4)
NUMBER = st.one_of(
    WHOLE.map(str),
    WHOLE.map(lambda n: f"{n:,}"),
    st.decimals(-99, 99, places=2).map(str),
    TERMS.map(lambda terms: "".join(f"{sign}{n}" for sign, n in terms).removeprefix("+")),
)
AROUND = [
    *("%s", "%s.", " %s ", "$%s$", r"\$%s", r"%s\$"),
    *("%s cm", r"%s\%%", "(%s)", "+%s", "-%s", "%s,"),
]
"""What may stand around a number in an answer."""

IN_A_TEXT = [
    *(r"so \boxed{%s}.", r"{\boxed {%s}", r"\fbox{%s}}", r"\\boxed{%s}", r"\boxed{%s\}", "%s"),
    *(r"\boxed{%s", r"\boxed %s", r"\boxed{\boxed{%s}}", r"\boxed{%s} \boxed{7}", r"\boxed"),
]
FORM = st.builds(lambda around, number: around % number, st.sampled_from(AROUND), NUMBER)
NEARLY = st.text(r"\boxed{}$0123456789.,- +f", max_size=30)
"""Texts of the signs that boxes and numbers are made of."""


def check_both_ways(text: str, gold: str) -> None:
    """Fails where the quick verdict is another than that of the full comparison."""
    reward, completion = MathReward(), make_text(text, gold)
    quick = reward.quickly(completion)
    if quick is not NotImplemented:
        full = reward.compare(completion)
        assert full is not None
        assert (quick, quick.outcome) == (full, full.outcome)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.sampled_from(IN_A_TEXT), FORM, NUMBER | FORM, st.booleans())
def test_what_is_told_quickly_is_what_is_told_in_full(
    text: str, answer: str, gold: str, same: bool
) -> None:
    check_both_ways(text.replace("%s", answer), answer if same else gold)
    value = plain_number(answer)
    if value is not None:  # a neighbour of the right answer, where exact reading counts
        check_both_ways(text.replace("%s", answer), str(value + same))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(NEARLY, NEARLY, WHOLE.map(str))
def test_any_text_is_told_quickly_as_in_full(text: str, inner: str, gold: str) -> None:
    check_both_ways(text, gold)
    check_both_ways(rf"\boxed{{{inner}}}", gold)


def test_plain_numbers_never_leave_the_process() -> None:
    pool = FakePool({})
    pool.collect = None  # type: ignore[assignment, method-assign]  # nothing may be waited for
    completions = [make("15", "15"), make("12+3", "15"), make("-15", "15"), make_text("no", "15")]
    found = RewardSum([WeightedReward(reward=MathReward())], pool)(completions)
    assert found.each["MathReward"] == ["right", "right", "wrong", "no_answer"]
    assert pool.seen == []
    for answer_in in ("last_number", "boxed_or_last_number"):
        assert MathReward(answer_in).quickly(make("15", "15")) is NotImplemented


TOWER = "9^{9^{9^{9}}}"


def make(answer: str, gold: str) -> Completion:
    return make_text(rf"\boxed{{{answer}}}", gold)


def make_text(text: str, gold: str) -> Completion:
    return Completion(text=text, question="q", answer=gold, num_tokens=1, finished=True)


class FakePool(RewardPool):
    """Scores at once; what the text or the gold answer names fails."""

    def __init__(self, failing: dict[str, str]) -> None:
        super().__init__(num_workers=1)
        self.failing = failing
        self.seen: list[Completion] = []

    def register(self, reward: Any) -> int:
        self.reward = reward
        return 0

    def submit(self, reward: int, completion: Completion) -> int:
        self.seen.append(completion)
        return len(self.seen) - 1

    def collect(self, tasks: Collection[int]) -> list[dict[str, Any]]:
        return [self._answer(self.seen[task]) for task in tasks]

    def _answer(self, completion: Completion) -> dict[str, Any]:
        for word, outcome in self.failing.items():
            if word in completion.text or word in completion.answer:
                return {"score": None, "outcome": outcome, "detail": ""}
        (score,) = self.reward([completion])
        return {"score": score, "outcome": getattr(score, "outcome", "unscored"), "detail": ""}


def test_a_tower_is_wrong_and_a_gold_tower_is_not_the_answers_fault() -> None:
    pool = FakePool({TOWER: "timed_out", "2222": "crashed"})
    scores = RewardSum([WeightedReward(reward=MathReward())], pool)(
        [
            make(TOWER, r"\sqrt{2}"),
            make("2222 x", r"\sqrt{2}"),
            make(r"\sqrt{2}", r"\sqrt{2}"),
            make("x", TOWER),
            make("y", TOWER),
        ]
    )
    assert scores.total == [0.0, 0.0, 1.0, None, None]
    each = [INCOMPARABLE, INCOMPARABLE, "right", "timed_out", "timed_out"]
    assert scores.each["MathReward"] == each
    assert scores.outcomes["MathReward"] == {
        **{"right": 1, "wrong": 0, "no_answer": 0, "unparseable": 0, INCOMPARABLE: 2},
        **{"timed_out": 2, "crashed": 0},
    }


def test_a_problem_is_probed_once() -> None:
    pool = FakePool({TOWER: "timed_out"})
    rewards = RewardSum([WeightedReward(reward=MathReward())], pool)
    for _ in range(3):
        assert rewards([make(TOWER, r"\sqrt{2}")] * 4).total == [0.0] * 4
    probes = [seen for seen in pool.seen if TOWER not in seen.text]
    assert [probe.answer for probe in probes] == [r"\sqrt{2}"]


def test_a_reward_without_a_probe_has_no_score_where_it_fails() -> None:
    def half(completions: list[Completion]) -> list[float]:
        return [0.5] * len(completions)

    pool = FakePool({"never": "timed_out"})
    pool.why_not = lambda reward: ""  # type: ignore[method-assign]
    scores = RewardSum([WeightedReward(reward=half)], pool)([make("never", "1"), make("2", "1")])
    assert scores.total == [None, 0.5]
    assert scores.outcomes["half"] == {"timed_out": 1, "crashed": 0}


class Half:
    """A reward of a user's own, with a probe."""

    def __call__(self, completions: list[Completion]) -> list[float]:
        return [0.5] * len(completions)

    def probe(self, completion: Completion) -> Completion:
        return make("0", completion.answer)


def test_a_reward_of_ones_own_may_have_a_probe() -> None:
    scores = RewardSum([WeightedReward(reward=Half())], FakePool({"never": "crashed"}))(
        [make("never", "1"), make("2", "1"), make("2", "never")]
    )
    assert scores.total == [0.0, 0.5, None]
    assert scores.outcomes["Half"] == {INCOMPARABLE: 1, "timed_out": 0, "crashed": 1}


def test_an_answer_at_which_the_comparison_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(gold: Any, target: Any, **_: Any) -> bool:
        if "w" in str(target) or "g" in str(gold):
            raise ValueError("can't be compared")
        return False

    monkeypatch.setattr("math_verify.verify", verify)
    found = MathReward()([make("w+1", "x+1"), make("x+2", "x+1"), make("x+2", "g+1")])
    assert found == [0.0, 0.0, None]
    assert [getattr(verdict, "outcome", None) for verdict in found] == [INCOMPARABLE, "wrong", None]


def test_a_gold_answer_that_is_no_number_is_at_fault() -> None:
    assert MathReward()([make("5", r"\frac{1}{0}"), make("x", r"\frac{1}{0}")]) == [None, None]
    assert MathReward()([make(r"\frac{1}{0}", r"\sqrt{5}")]) == [0.0]


def test_clocks_do_not_crash() -> None:
    answers = ("12:00", "1:00", "5", "3:30", "12:00 PM", "x+1", r"\frac{1}{0}")
    assert MathReward()([make(answer, "12:00") for answer in answers]) == [1, 0, 0, 0, 1, 0, 0]


def test_a_real_tower_in_a_real_pool() -> None:
    pool = RewardPool(num_workers=1, deadline=6.0)
    with closing(RewardSum([WeightedReward(reward=MathReward())], pool)) as rewards:
        scores = rewards([make(TOWER, r"\sqrt{2}"), make("9", r"\sqrt{2}")])
    assert scores.total == [0.0, 0.0]
    assert scores.each["MathReward"] == [INCOMPARABLE, "wrong"]
