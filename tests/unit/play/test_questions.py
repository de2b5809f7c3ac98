"""Problems with known answers, and verdicts on answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.play.questions import MOST_PROBLEMS, Judged, Questions
from steer_lightning.types import Completion, Problem


class Source:
    """Problems of which the first has many lines."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def load(self) -> list[Problem]:
        first = Problem(question="one\nand\x1b one", answer="2", columns={"level": 3})
        return [first, *(Problem(question=f"q{k}" * 60, answer=str(k)) for k in range(self.count))]


class Seeing:
    """A verifier that remembers what it has seen, in this process."""

    in_process = True

    def __init__(self) -> None:
        self.seen: list[Completion] = []

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        self.seen.extend(completions)
        return [0.5 for _ in completions]


class Twice:
    """A question with two answers, in the line ends of another system."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    def load(self) -> list[Problem]:
        first = self.answers[0]
        return [Problem(question=f"a\r\nb{first}", answer=x) for x in self.answers]


class Broken:
    """A source without data."""

    def load(self) -> list[Problem]:
        raise ConfigError("source.path", "x", rule="there is no such file")


@pytest.fixture
def questions() -> Iterator[Questions]:
    found = Questions({"mine": Source()})
    found.load()
    yield found
    found.close()


def test_problems_are_listed_on_a_line_each(questions: Questions) -> None:
    lines = list(questions.problems)
    assert lines[0] == "mine 1: one\\nand\\x1b one"
    assert lines[1].startswith("mine 2: q0q0")
    assert lines[1].endswith("…")
    assert questions.problems[lines[0]].answer == "2"


def test_answers_are_judged_by_mathematics(questions: Questions) -> None:
    asked = "one\nand\x1b one"
    right = questions.judge(asked, r"so \boxed{\frac{4}{2}}", 9, True)
    assert right == Judged(score=1.0, outcome="right", answer="2")
    assert right.text == "right"
    none = questions.judge(asked, "so", 9, True)
    assert none is not None
    assert none.text == "no answer; the answer is 2"
    assert questions.judge("something else", r"\boxed{2}", 9, True) is None


def test_another_verifier_judges_with_all_facts() -> None:
    verifier = Seeing()
    questions = Questions({"mine": Source()}, verifier)
    questions.load()
    found = questions.judge("one\nand\x1b one", "text", 4, False)
    questions.close()
    assert found == Judged(score=0.5, outcome="scored", answer="2")
    (completion,) = verifier.seen
    assert (completion.num_tokens, completion.finished) == (4, False)
    assert completion.columns == {"level": 3}
    assert questions.judge("one\nand\x1b one", "text", 4, False) is None, "it is closed"


def test_questions_are_known_as_a_browser_sends_them() -> None:
    questions = Questions({"a": Twice("1", "1"), "b": Twice("2", "3")})
    questions.load()
    found = questions.judge("a\nb1", r"\boxed{1}", 3, True)
    assert found is not None
    assert found.score == 1
    assert questions.judge("a\nb2", r"\boxed{2}", 3, True) is None, "the answers contradict"
    questions.close()


def test_sources_that_cannot_be_read_are_told_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    questions = Questions({"gone": Broken(), "mine": Source(2 * MOST_PROBLEMS)})
    questions.load()
    questions.close()
    assert "no problems of gone to choose from" in caplog.text
    assert "no such file" in caplog.text
    assert len(questions.problems) == MOST_PROBLEMS
