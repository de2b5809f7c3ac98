"""Prompts with a hint: what they say, and which are refused or left out."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import PlainTemplate
from steer_lightning.data.hinted_prompts import hinted_prompts, hinted_question
from steer_lightning.testing import BOS, byte_tokenizer
from steer_lightning.types import Problem, Prompt

TEMPLATE = PlainTemplate("{question}=?\n")


def prompt(id: int, question: str, **columns: object) -> Prompt:
    problem = Problem(question=question, answer="85", columns=columns)
    return Prompt(id=id, problem=problem, text=f"{question}=?\n", token_ids=(BOS,))


SUM = prompt(4, "47+38", solution=r"7+8=15, so \boxed{85} {answer}", level=3)


def test_columns_take_the_places_of_their_names() -> None:
    text = "{question} (level {level}, {answer}: {solution})"
    found = hinted_question(text, SUM)
    assert found == r"47+38 (level 3, 85: 7+8=15, so \boxed{85} {answer})", "names in values stay"
    assert hinted_question(r"{question} \boxed{}", SUM) == r"47+38 \boxed{}"


def test_only_the_prompt_has_the_hint() -> None:
    tokenizer = byte_tokenizer()
    found = hinted_prompts([SUM], "{level}: {question}", TEMPLATE, tokenizer, 99)
    assert list(found) == [4]
    assert found[4].text == "3: 47+38=?\n"
    assert found[4].token_ids == tuple(tokenizer("3: 47+38=?\n")["input_ids"])
    assert found[4].problem is SUM.problem, "rewards judge by the problem without hint"
    assert found[4].id == 4


@pytest.mark.parametrize("value", [None, " ", True, ["7+8"]])
def test_a_problem_without_the_column_is_named(value: object) -> None:
    bad = replace(SUM, id=6, problem=replace(SUM.problem, columns={"solution": value}))
    told = (
        r"model.guidance.text = '\{question\} \{solution\}': \{solution\} is neither text nor a "
        r"number in problem 7 of data.train. The problem has the columns solution, question, answer"
    )
    with pytest.raises(ConfigError, match=told):
        hinted_prompts([SUM, bad], "{question} {solution}", TEMPLATE, byte_tokenizer(), 99)


def test_prompts_that_are_too_long_with_their_hint_have_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = prompt(5, "47+38", solution="7" * 20)
    short = prompt(6, "47+38", solution="7")
    with caplog.at_level(logging.WARNING):
        found = hinted_prompts(
            [long, short], "{solution} {question}", TEMPLATE, byte_tokenizer(), 12
        )
    assert list(found) == [6]
    assert "1 of 2 prompts get no hint" in caplog.text
    assert "data.max_prompt_tokens = 12" in caplog.text
    told = r"data.max_prompt_tokens = 12: all 1 prompts are longer with the hint of model.guidance"
    with pytest.raises(ConfigError, match=told):
        hinted_prompts([long], "{solution} {question}", TEMPLATE, byte_tokenizer(), 12)
