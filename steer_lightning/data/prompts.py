"""Makes prompts from problems, checks them, and warns of anything odd in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any

from steer_lightning.data.completion_text import turn_end_ids
from steer_lightning.data.templates import KEY, ChatTemplate, Template, render
from steer_lightning.errors import ConfigError, with_own_keys
from steer_lightning.system.printable import one_line, quoted
from steer_lightning.types import Problem, Prompt, Source

log = logging.getLogger(__name__)

SHOWN = 80
"""Number of characters of a question that a message shows."""


SOURCE = "source"
"""Name of sources in the keys of their errors, since they do not know their own key."""


def load_problems(source: Source, key: str = SOURCE) -> list[Problem]:
    """Loads the problems of a source.

    Args:
        source: Source of the problems.
        key: Key of the source in the configuration, such as `data.train`.

    Raises:
        ConfigError: If the source raises one; the error has the whole key. If the source's class
            has no such setting, as `GSM8K` has none for the column of the answers, the source's
            error is unchanged.
    """
    try:
        problems: list[Problem] = source.load()
    except ConfigError as error:
        head, _, name = error.key.partition(".")
        if head != SOURCE or key == SOURCE:
            raise
        if not name:
            raise error.at(key) from error
        if name in signature(type(source)).parameters:
            raise error.at(f"{key}.init_args.{name}") from error
        raise error.at(key, type(source).__name__) from error
    return problems


def make_prompts(
    source: Source,
    template: Template,
    tokenizer: Any,
    max_prompt_tokens: int,
    key: str = SOURCE,
) -> list[Prompt]:
    """Renders and tokenizes all problems of a source.

    Warnings count prompts that are dropped, that repeat each other, and whose tokens differ from
    what the text or the tokenizer suggests.

    Args:
        source: Source of the problems.
        template: Template that renders them for the model.
        tokenizer: Tokenizer of the model.
        max_prompt_tokens: Largest number of tokens in a prompt. Longer prompts are dropped and
            counted: if they were cut off, they would ask another question.
        key: Key of the source in the configuration, for errors.

    Returns:
        Prompts, at least one.

    Raises:
        ConfigError: If the source is empty, the template makes no prompt of a problem, or no prompt
            is short enough.
    """
    problems = load_problems(source, key)
    name = type(source).__name__
    if not problems:
        raise ConfigError(key, name, rule="holds no problems")
    prompts = []
    for index, problem in enumerate(problems):
        prompt = make_prompt(index, problem, template, tokenizer, name)
        if len(prompt.token_ids) <= max_prompt_tokens:
            prompts.append(prompt)
    dropped = len(problems) - len(prompts)
    if not prompts:
        raise ConfigError(
            "data.max_prompt_tokens",
            max_prompt_tokens,
            rule=f"all {len(problems)} prompts of {name} are longer",
            fix="Set it higher, or use a shorter template",
        )
    if dropped:
        log.warning(
            "%s: dropped %d of %d prompts longer than %s = %d",
            *(one_line(name), dropped, len(problems)),
            *(one_line(with_own_keys("data.max_prompt_tokens")), max_prompt_tokens),
        )
    check_ends(prompts, template, tokenizer, name)
    check_questions(prompts, template, name)
    tell_of_repeats(prompts, name)
    tell_of_tokens(prompts, tokenizer, name)
    return prompts


def make_prompt(
    index: int, problem: Problem, template: Template, tokenizer: Any, source: str
) -> Prompt:
    """Renders and tokenizes one problem.

    Args:
        index: Position of the problem in the source, from 0.
        problem: Problem to render.
        template: Template that renders it for the model.
        tokenizer: Tokenizer of the model.
        source: Name of the source, for errors.

    Raises:
        ConfigError: If the template fails, or returns no prompt; the error names the problem.
    """
    try:
        text = render(template, problem.question, tokenizer)
        ids = _encode(template, text, tokenizer)
    except ConfigError as error:
        place = f"{error.rule} (problem {index + 1} of {source})"
        raise ConfigError(
            error.key, error.value, rule=place, why=error.why, fix=error.fix
        ) from error
    return Prompt(id=index, problem=problem, text=text, token_ids=tuple(ids))


def _encode(template: Template, text: str, tokenizer: Any) -> list[int]:
    """Returns the tokens of a rendered prompt, at least one."""
    name, fix = type(template).__name__, "Use another template, or fix what its encode returns"
    try:
        ids = template.encode(text, tokenizer)
    except ConfigError:
        raise
    except Exception as error:  # user code may raise anything
        rule = f"fails to encode a prompt: {type(error).__name__}: {one_line(error)}"
        raise ConfigError(KEY, name, rule=rule, fix=fix) from error
    if not isinstance(ids, (list, tuple)) or not all(type(token) is int for token in ids):
        rule = f"must encode a prompt as a list of whole numbers, but returned {ids!r:.100}"
        raise ConfigError(KEY, name, rule=rule, fix=fix)
    if not ids:
        raise ConfigError(
            KEY,
            name,
            rule=f"the prompt {text[:200]!r} has no tokens",
            fix="Check that the tokenizer of model.base is complete",
        )
    return list(ids)


def check_ends(prompts: Sequence[Prompt], template: Template, tokenizer: Any, source: str) -> None:
    """Refuses prompts that end in EOS or in the end of a turn, whether or not blanks follow.

    Args:
        prompts: Prompts of one template.
        template: Template that made them.
        tokenizer: Tokenizer of the model.
        source: Name of their source, for errors.

    Raises:
        ConfigError: If such a prompt exists; the error names the first one.
    """
    ends = turn_end_ids(tokenizer) | {tokenizer.eos_token_id} - {None}
    texts = tuple(tokenizer.convert_ids_to_tokens(sorted(ends)))
    for prompt in prompts:
        text = prompt.text.rstrip()
        found = [token for token in texts if text.endswith(token) and text != prompt.text]
        if prompt.token_ids[-1] in ends:
            found = [tokenizer.convert_ids_to_tokens(prompt.token_ids[-1])]
        if not found:
            continue
        raise ConfigError(
            KEY,
            type(template).__name__,
            rule=f"its prompts end in {found[0]} (problem {prompt.id + 1} of {source})",
            why=f"That token says that nothing follows. The prompt ends in {prompt.text[-60:]!r}",
            fix="Use a template that ends where the answer begins, or fix the model's chat "
            "template: it should open the assistant's message if add_generation_prompt is true",
        )


def check_questions(prompts: Sequence[Prompt], template: Template, source: str) -> None:
    """Refuses a chat template that changes questions: cut or escaped, they ask something else.

    A user's own template may change questions on purpose, so that only causes a warning.

    Args:
        prompts: Prompts of one template.
        template: Template that made them.
        source: Name of their source, for messages.

    Raises:
        ConfigError: If the model's chat template changes a question; the error counts them.
    """
    changed = [prompt for prompt in prompts if prompt.problem.question.strip() not in prompt.text]
    if not changed:
        return
    first, name = changed[0], type(template).__name__
    rule = (
        f"{len(changed)} of {len(prompts)} questions are not contained in their prompts unchanged, "
        f"the first being problem {first.id + 1} of {source}"
    )
    why = f"{first.problem.question[:SHOWN]!r} is rendered as {first.text[-200:]!r}"
    if type(template) is not ChatTemplate:
        log.warning(
            "%s = %s: %s: %s",
            one_line(with_own_keys(KEY)),
            one_line(name),
            one_line(rule),
            one_line(why),
        )
        return
    fix = "Fix the model's chat template, use another template, or leave these problems out"
    raise ConfigError(KEY, name, rule=rule, why=why, fix=fix)


# ---- warnings of anything odd


def tell_of_repeats(prompts: Sequence[Prompt], name: str) -> None:
    """Warns of prompts that a source contains several times, and of contradictory gold answers.

    Args:
        prompts: Prompts of one source.
        name: Name of the source.
    """
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.text, prompt)
    repeats = [prompt for prompt in prompts if first[prompt.text] is not prompt]
    answers = {text: prompt.problem.answer for text, prompt in first.items()}
    contradictions = sum(answers[prompt.text] != prompt.problem.answer for prompt in repeats)
    if repeats:
        log.warning(
            "%s: %d of %d prompts repeat an earlier one, such as %s; %d of them have another gold "
            "answer",
            one_line(name),
            len(repeats),
            len(prompts),
            quoted(shortened(repeats[0].problem.question)),
            contradictions,
        )


def tell_of_overlap(
    train: Iterable[str], others: Sequence[str], name: str, train_name: str = "data.train"
) -> None:
    """Warns if held-out problems are among the training problems.

    Args:
        train: Questions for training.
        others: Held-out questions.
        name: Name of the source of the held-out questions.
        train_name: Name of the source of the training problems.
    """
    known = set(map(_key, train))
    shared = [question for question in others if _key(question) in known]
    if shared:
        log.warning(
            "%s: %d of its %d problems are also in %s, such as %s: accuracy on them does not show "
            "how well training generalizes",
            one_line(name),
            len(shared),
            len(others),
            one_line(train_name),
            quoted(shortened(shared[0])),
        )


def tell_of_tokens(prompts: Sequence[Prompt], tokenizer: Any, name: str) -> None:
    """Warns if tokens differ from what a reader of the texts would expect.

    Args:
        prompts: Prompts of one template, at least one.
        tokenizer: Tokenizer of the model.
        name: Name of their source.
    """
    _tell_of_added_tokens(prompts[0], tokenizer, name)
    special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")
    found = [(p, match) for p in prompts if (match := special.search(p.problem.question))]
    if found:
        log.warning(
            "%s: %d of %d questions contain text that is a special token of the model, such as %s "
            "in problem %d: the model does not read it as text",
            one_line(name),
            len(found),
            len(prompts),
            quoted(found[0][1][0]),
            found[0][0].id + 1,
        )
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        return  # a tokenizer that knows every byte has some other token in this role
    lost = [prompt for prompt in prompts if unknown in prompt.token_ids]
    if lost:
        log.warning(
            "%s: %d of %d prompts contain characters that the tokenizer does not know, such as %s",
            one_line(name),
            len(lost),
            len(prompts),
            quoted(shortened(lost[0].problem.question)),
        )


def _tell_of_added_tokens(prompt: Prompt, tokenizer: Any, name: str) -> None:
    """Warns if a prompt lacks tokens that the tokenizer itself adds to the same text."""
    ids, alone = list(prompt.token_ids), list(tokenizer(prompt.text)["input_ids"])
    bos = tokenizer.bos_token_id
    added = len(alone) - len(ids)
    starts = [k for k in range(max(0, added + 1)) if alone[k : k + len(ids)] == ids]
    if not starts:
        return
    before, behind = alone[: starts[0]], alone[starts[0] + len(ids) :]
    if behind:
        log.warning(
            "%s: the tokenizer adds %s after texts, which says that nothing follows; prompts do "
            "not contain it",
            one_line(name),
            quoted("".join(tokenizer.convert_ids_to_tokens(behind))),
        )
    if bos is not None and before == [bos] and ids[0] != bos:
        log.warning(
            "%s: the tokenizer adds %s before texts, but the chat template does not render it; "
            "prompts are used as the chat template renders them",
            one_line(name),
            quoted(tokenizer.bos_token),
        )


def _key(question: str) -> str:
    """Returns a key that does not depend on how a question's spaces and lines are broken."""
    return " ".join(question.split())


def shortened(question: str) -> str:
    """Returns as much of a question as a message shows."""
    return question if len(question) <= SHOWN else f"{question[:SHOWN]}..."
