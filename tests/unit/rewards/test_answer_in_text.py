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
    for unit in (r"\boxed{1}, ", r"\boxed{", r"\boxed 1", "1,", "1 ", "1/", r"\frac{1}{", "-", "}"):
        text = unit * (1_000_000 // len(unit))
        for answer_in in ("boxed", "last_number"):
            find_answer(text, answer_in)  # type: ignore[arg-type]
    assert time.process_time() - start < 15, "two seconds, on a machine with nothing else to do"
