"""Token budgets that are written into the prompts of another source."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import TokenBudgets
from steer_lightning.data.prompts import load_problems
from steer_lightning.types import Problem
from tests.unit.data.rates import Letters

BUDGETS = {"Be brief.": 10, "Take your time.": 40}


def test_the_problems_get_the_budgets_in_turn() -> None:
    found = TokenBudgets(Letters(), BUDGETS, text="{budget} {question}").load()
    assert [(x.question, x.columns["token_budget"]) for x in found] == [
        ("Be brief. a", 10),
        ("Take your time. b", 40),
        ("Be brief. c", 10),
    ]
    assert [x.answer for x in found] == [x.answer for x in Letters().load()]
    assert found[0].columns["level"] == 1, "the source's own columns stay"


class Braces:
    def load(self) -> list[Problem]:
        return [Problem(question="What is {budget}?", answer="1")]


def test_braces_in_a_question_stay() -> None:
    (found,) = TokenBudgets(Braces(), {"Be brief.": 5}).load()
    assert found.question == "What is {budget}?\n\nBe brief."


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"budgets": {}}, r"TokenBudgets\.budgets = {}: must have at least one"),
        ({"budgets": {"x": 0}}, r"TokenBudgets\.budgets = .*at least 1"),
        ({"text": "{question}"}, r"TokenBudgets\.text = .*{budget}, once each"),
        ({"text": "{budget} {budget} {question}"}, r"TokenBudgets\.text"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TokenBudgets(Letters(), **{"budgets": BUDGETS, **settings})


def test_two_budgets_of_one_problem_are_refused() -> None:
    twice = TokenBudgets(TokenBudgets(Letters(), BUDGETS), BUDGETS)
    with pytest.raises(ConfigError, match=r"data\.train.*column 'token_budget' already"):
        load_problems(twice, "data.train")
