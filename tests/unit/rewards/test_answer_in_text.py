r"""Where an answer is found: in boxes of all spellings, as the last number, in a gold solution."""

from __future__ import annotations

import time

import pytest

from steer_lightning.rewards import MathReward
from steer_lightning.rewards.answer_in_text import find_answer, gold_answer, is_prose, last_boxed
from steer_lightning.types import Completion


def score(text: str, gold: str, answer_in: str = "boxed") -> float | None:
    completion = Completion(text=text, question="", answer=gold, num_tokens=1, finished=True)
    return MathReward(answer_in)([completion])[0]  # type: ignore[arg-type]


SOLUTIONS = [
    (r"So $x=\boxed 2$. Note that $7$ is no solution.", "2", "7"),
    (r"It is $3\cdot 3=\boxed 9$. (We check $3+3=6$.)", "9", "6"),
    (r"It is \boxed 9. (We check $3+3=6$.)", "9", "6"),
    (r"So $\fbox{12}$, and $5$ is extraneous.", "12", "5"),
    (r"So $\boxed {12}$, and $5$ is extraneous.", "12", "5"),
    (r"So $\boxed\frac{1}{2}$, not $2$.", "0.5", "2"),
    (r"The roots are $\boxed{1}$ and $\boxed{-2}$.", "1,-2", "-2"),
    (r"Either $\boxed{3}$, $\boxed{4}$, or $\boxed{5}$.", "5, 4, 3", "5"),
    (r"First $\boxed{3}$; with that we find the sum, which is $\boxed{10}$.", "10", "3, 10"),
    (r"So \[\boxed{\text{June 20}}.\]", "June 20", "20"),
]


@pytest.mark.parametrize(("solution", "right", "wrong"), SOLUTIONS)
def test_gold_solutions(solution: str, right: str, wrong: str) -> None:
    assert score(rf"\boxed{{{right}}}", solution) == 1.0
    assert score(rf"\boxed{{{wrong}}}", solution) == 0.0
    assert score(solution, solution) == 1.0, "the solution itself is right"


def test_a_solution_without_a_box_has_no_answer() -> None:
    for solution in ("So $x=5$. Note that $7$ is none.", "Then 3+3 is 6,\nso the answer is 6."):
        assert gold_answer(solution) is None
        assert score(r"\boxed{7}", solution) is None
        assert score("no answer", solution) is None
    assert gold_answer(r"\boxed{}") is None


@pytest.mark.parametrize(
    "gold",
    [
        *("The answer is 7.", "Answer: 7", "#### 7", "2+5 is\n#### 7", "so 7", "Thus x = 7."),
        *(r"\text{The answer is }7", r"\text{Answer: 7}", r"\therefore 7", "\\boxed\n{7}"),
        *(r"\boxed  {7}", r"\boxed{7} \boxed{7}"),
    ],
)
def test_what_leads_to_a_gold_answer_is_left_out(gold: str) -> None:
    assert score(r"\boxed{7}", gold) == 1.0
    assert score(r"\boxed{2}", gold) == 0.0


@pytest.mark.parametrize(
    "gold",
    [
        *("Adding 2 and 5 gives 7", "The total equals 7 dollars", "7 (Answer)", "Total cost: 7"),
        *("It costs 2 dollars each, 7 in all", "$x$ is 7 when $y$ is 2", "3, since 2 fails"),
        *(r"\frac{1}{2", "(1,2", "x+", "nan", "None", "[]", "N/A", "???", "-", r"\_\_", r"\sqrt{"),
        *(r"\boxed{-3", r"5 \text{ or more", r"\begin{pmatrix}1\\2", r"\boxed{1}\boxed{2}"),
    ],
)
def test_a_gold_answer_that_is_none_gives_no_verdict(gold: str) -> None:
    for answer in ("7", "2", r"\frac{1}{2}"):
        assert score(rf"\boxed{{{answer}}}", gold) is None


def test_named_boxes_are_one_answer() -> None:
    gold = r"So $x=\boxed{1}$ and $y=\boxed{2}$."
    assert gold_answer(gold) == r"x=\boxed{1}$ and $y=\boxed{2}"
    for answer in ("x=1, y=2", "y=2, x=1", "(1,2)"):
        assert score(rf"\boxed{{{answer}}}", gold) == 1.0
    for answer in ("2", "1", "x=2, y=1"):
        assert score(rf"\boxed{{{answer}}}", gold) == 0.0


def test_open_intervals_and_signs_at_the_end_are_whole() -> None:
    for gold in ("[1,2)", "]0,1[", r"\mathbb{R}^+", r"\{\}", "x^*", r"\text{none}"):
        assert score(rf"\boxed{{{gold}}}", gold) == 1.0


def test_answers_in_words_are_no_solutions() -> None:
    answers = ["n is odd", "all odd integers greater than 1", r"x^2 \text{ for all } x", "18 eggs"]
    answers += ["sin x + cos y + tan z", r"\begin{pmatrix} 1 \end{pmatrix}+\begin{pmatrix} 2"]
    for answer in [*answers, "$k$ or $2k$", "all positive integers of the form $4k+1$"]:
        assert not is_prose(answer)
        assert gold_answer(answer) == answer


LAST = [
    ("The probability is .5", ".5"),
    ("The probability is .5.", ".5"),
    ("x is \N{MINUS SIGN}5", "\N{MINUS SIGN}5"),
    ("It is 1/2", "1/2"),
    (r"It is $\frac{1}{2}$.", r"\frac{1}{2}"),
    ("It takes 3-5 days", "5"),
    ("It takes 3\N{EN DASH}5 days", "5"),
    ("x-5", "5"),
    ("about 1e5", "1e5"),
    ("about 4.5 x 10^33 J", "4.5 x 10^33"),
    (r"about $4.5 \times 10^{33}$ J", r"4.5 \times 10^{33}"),
    ("in all 1,234.50 dollars", "1,234.50"),
    (r"in all 2\,220", r"2\,220"),
    ("they are 1,2,3", "3"),
    ("it is -7.", "-7"),
    ("x=-7", "-7"),
    ("we owe (-7)", "-7"),
    ("at 12:30 sharp", "12:30"),
    ("2 1/2 cups", "2 1/2"),
    ("version 1.2.3", "3"),
    ("that is 50%", "50"),
    ("none", None),
    *((r"so \frac12", r"\frac12"), ("so 10^5", "10^5"), (r"so 2^{10}", "2^{10}")),
    *((r"so 10^{33}", "10^{33}"), ("so 10\N{SUPERSCRIPT FIVE}", "10\N{SUPERSCRIPT FIVE}")),
    *(("so 1 000 000", "1 000 000"), ("so 1 / 2", "1 / 2"), ("so 1,5", "1,5")),
    *(("x = \N{EN DASH}5", "\N{EN DASH}5"), ("x = - 5", "- 5"), ("10 - 5", "5"), ("\n- 5", "5")),
    *((r"so 3\sqrt{2}", r"3\sqrt{2}"), (r"so 2\pi", r"2\pi"), ("10^-3", "10^-3")),
    *((r"\frac{\sqrt{3}}{3}", r"\frac{\sqrt{3}}{3}"), ("in 2020 100 people", "100")),
    *(("x^2", None), ("x^{-2}", None), ("a_{12}", None), ("a/5", None)),
    *(("it is -$5.", "-$5"), (r"x = -\$5", r"-\$5"), ("= - $.50", "- $.50"), ("x=$-5$", "-5")),
    *(
        (r"is $-\$5$", r"-\$5"),
        (r"$-\$1{,}200$", r"-\$1{,}200"),
        (r"$20$-\$5$", "5"),
        ("-€ 5", "-€ 5"),
    ),
    *(("$3$-$5$ or so", "5"), ("$5-$3", "3"), ("3-$5", "5"), ("(2)-$5", "5"), ("- $5", "5")),
]


@pytest.mark.parametrize(("text", "number"), LAST)
def test_the_last_number(text: str, number: str | None) -> None:
    assert find_answer(text, "last_number") == number


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        *[("The probability is .5", "5", 0.0), ("The probability is .5", "0.5", 1.0)],
        *[("x is \N{MINUS SIGN}5", "5", 0.0), ("x is \N{MINUS SIGN}5", "-5", 1.0)],
        *[("It is 1/2", "2", 0.0), ("It is 1/2", "0.5", 1.0), ("It takes 3-5 days", "-5", 0.0)],
        *[(r"so \frac12", "12", 0.0), ("so 10^5", "5", 0.0), ("so 10^5", "100000", 1.0)],
        *[("so 1 000 000", "0", 0.0), ("so 1 000 000", "1000000", 1.0), ("1 / 2", "0.5", 1.0)],
        *[("x = - 5", "5", 0.0), ("x = - 5", "-5", 1.0), ("x = \N{EN DASH}5", "-5", 1.0)],
        *[("so 1,5", "5", 0.0), ("so 10\N{SUPERSCRIPT FIVE}", "100000", 1.0)],
        *[("we owe -$5", "5", 0.0), ("we owe -$5", "-5", 1.0), ("\N{MINUS SIGN}$5", "-5", 1.0)],
        *[("x = - $5", "-5", 1.0), (r"= -\$5", "-5", 1.0), ("from $3$-$5$", "-5", 0.0)],
        *[("about 1e5", "5", 0.0), ("about 1e5", "100000", 1.0), ("that is 50%", "50", 1.0)],
    ],
)
def test_the_last_number_is_read_as_it_stands(text: str, gold: str, expected: float) -> None:
    assert score(text, gold, "last_number") == expected


def test_boxes() -> None:
    assert find_answer(r"\boxed{1}, \boxed{2}") == r"\boxed{1}, \boxed{2}"
    assert find_answer(r"\boxed{1} then \boxed{2}") == "2"
    assert find_answer(r"\boxed{1} \boxed{2}") == "2"
    assert find_answer(r"\boxed{1} and the next is \boxed{2}") == "2"
    assert find_answer(r"\boxed 7 and \boxed{8}") == "8"
    assert find_answer(r"\boxed{8} (as \boxed asks)") == "8"
    assert find_answer(r"\fbox{\boxed{3}}") == "3"
    assert find_answer(r"\\boxed{4}") == "4"
    assert find_answer(r"\boxed{18\\}") == r"18\\"
    assert find_answer(r"\boxed{\{1\}}") == r"\{1\}"
    assert last_boxed(r"\boxed{\frac{1}{2}} \boxed{") == r"\frac{1}{2}"


def test_a_megabyte_costs_a_moment() -> None:
    start = time.process_time()
    for unit in (
        r"\boxed{1}, ",
        r"\boxed{",
        r"\boxed 1",
        "1,",
        "1 ",
        "1/",
        r"\frac{1}{",
        "-",
        "}",
        " 111",
        "1^",
    ):
        text = unit * (1_000_000 // len(unit))
        for answer_in in ("boxed", "last_number"):
            find_answer(text, answer_in)  # type: ignore[arg-type]
    assert time.process_time() - start < 15, "two seconds, on a machine with nothing else to do"
