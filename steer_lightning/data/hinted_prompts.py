"""Prompts with a hint beside the question, for completions that the update learns from without."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from steer_lightning.data.prompts import check_ends, check_questions, make_prompt
from steer_lightning.data.templates import Template
from steer_lightning.errors import ConfigError, with_own_keys
from steer_lightning.system.printable import one_line
from steer_lightning.types import Problem, Prompt

log = logging.getLogger(__name__)

KEY = "model.guidance.text"
SOURCE = "data.train"
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def hinted_prompts(
    prompts: Sequence[Prompt], text: str, template: Template, tokenizer: Any, max_prompt_tokens: int
) -> dict[int, Prompt]:
    """Makes the prompt with a hint of each prompt; rewards still read the problem without it.

    A warning counts prompts that are longer with their hint than `max_prompt_tokens`. These have no
    hint.

    Args:
        prompts: Prompts without hints, at least one.
        text: Question with a hint, in which names in braces stand for the question, the answer and
            other columns of the problem, such as `{question}` and `{solution}`.
        template: Template that renders the question for the model.
        tokenizer: Tokenizer of the model.
        max_prompt_tokens: Largest number of tokens in a prompt.

    Returns:
        Prompts with hints, by the id of the prompt without.

    Raises:
        ConfigError: If a problem lacks a column that the text names, the template makes no prompt
            of a question with its hint, or all prompts are too long with their hints.
    """
    found: dict[int, Prompt] = {}
    for prompt in prompts:
        question = hinted_question(text, prompt)
        problem = replace(prompt.problem, question=question)
        hinted = make_prompt(prompt.id, problem, template, tokenizer, SOURCE)
        if len(hinted.token_ids) <= max_prompt_tokens:
            found[prompt.id] = replace(hinted, problem=prompt.problem)
    missing = len(prompts) - len(found)
    if not found:
        raise ConfigError(
            "data.max_prompt_tokens",
            max_prompt_tokens,
            rule=f"all {missing} prompts are longer with the hint of {KEY}",
            fix=f"Set it higher, or use a shorter {KEY}",
        )
    if missing:
        log.warning(
            "%s: %d of %d prompts get no hint, since they are longer with it than %s = %d",
            *(one_line(KEY), missing, len(prompts)),
            *(one_line(with_own_keys("data.max_prompt_tokens")), max_prompt_tokens),
        )
    check_ends(list(found.values()), template, tokenizer, SOURCE)
    check_questions(list(found.values()), template, SOURCE)
    return found


def hinted_question(text: str, prompt: Prompt) -> str:
    """Returns the text with the columns of a problem in place of their names.

    Args:
        text: Text with names in braces; other braces stay as they are.
        prompt: Prompt of the problem.

    Raises:
        ConfigError: If the problem has no such column, or the column holds neither text nor a
            number.
    """
    columns = columns_of(prompt.problem)

    def value(match: re.Match[str]) -> str:
        found = columns.get(match[1])
        is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
        if is_number or (isinstance(found, str) and found.strip()):
            return str(found)
        raise ConfigError(
            KEY,
            text,
            rule=f"{match[0]} is neither text nor a number in problem {prompt.id + 1} of {SOURCE}",
            why=f"The problem has the columns {', '.join(columns)}",
            fix="Name a column that every problem has, or use a source with hints. A text with "
            "other names in braces can't be given",
        )

    return PLACEHOLDER.sub(value, text)  # in one pass, so that braces of a solution stay


def columns_of(problem: Problem) -> dict[str, object]:
    """Returns the columns of a problem by name, question and answer among them."""
    return {**problem.columns, "question": problem.question, "answer": problem.answer}
