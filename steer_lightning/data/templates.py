"""The templates that turn a question into the text that the model reads, and then into tokens."""

from __future__ import annotations

import logging
import re
from inspect import signature
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable

from jinja2 import TemplateError

from steer_lightning.errors import ConfigError, with_own_keys
from steer_lightning.system.printable import one_line, quoted

log = logging.getLogger(__name__)

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
PROBE = "How many legs do 2 spiders and 1 cat have?"
REPLY = "They have 20 legs."
KEY = "data.template"

OURS = ("tokenize", "add_generation_prompt", "return_tensors", "return_dict")
"""Arguments of `apply_chat_template` that `ChatTemplate` sets itself."""

RAISED = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""Errors that a chat template raises: its own refusals, and those of its expressions."""


@runtime_checkable
class Template(Protocol):
    """Renders a question as a prompt, and encodes the prompt as tokens."""

    def render(self, question: Any, tokenizer: Any, /) -> Any:
        """Takes a question and the model's tokenizer; returns the whole prompt as text."""
        ...

    def encode(self, text: Any, tokenizer: Any, /) -> Any:
        """Takes a rendered prompt and the model's tokenizer.

        Returns the tokens of the prompt as a list of integers, special tokens included.
        """
        ...


class ChatTemplate:
    """Renders questions with the model's own chat template, with a system message.

    Some chat templates have no place for a system message: Gemma 2's refuses it, and Phi-3's
    silently skips it, so that the model would never read the instruction. Both cases are errors
    here. Putting the message before the question instead changes what the model reads and what its
    results mean, so this belongs in the run's configuration. It is therefore a setting of its own,
    and never happens automatically.

    Args:
        system: System message; null leaves it out.
        options: Further variables for the model's template, such as `enable_thinking: false` for
            Qwen3.
        system_in_user: Whether the system message is put before the question, into the user's
            message, for chat templates that accept no system message.

    Raises:
        ConfigError: If an option is one that this class sets itself, or `system_in_user` is set
            without a system message.
    """

    def __init__(
        self,
        system: str | None = INSTRUCTION,
        options: dict[str, Any] | None = None,
        system_in_user: bool = False,
    ) -> None:
        self.system, self.options, self.system_in_user = system, options or {}, system_in_user
        taken = sorted(set(self.options) & set(OURS))
        if taken:
            raise ConfigError(
                f"{KEY}.init_args.options",
                self.options,
                rule=f"must not set {', '.join(taken)}",
                why="A prompt is text that ends where the model's answer begins",
            )
        if system_in_user and not system:
            raise ConfigError(
                f"{KEY}.init_args.system_in_user",
                system_in_user,
                rule="needs a system message, but system is null",
                fix="Set system, or set system_in_user to false",
            )

    def render(self, question: str, tokenizer: Any) -> str:
        """Renders a question; see `Template.render`.

        Raises:
            ConfigError: If the tokenizer has no chat template, or the template refuses or drops the
                system message.
        """
        if not tokenizer.chat_template:
            raise ConfigError(
                KEY,
                type(self).__name__,
                rule=f"the tokenizer{_of(tokenizer)} has no chat template",
                why="It belongs to a base model",
                fix="Set data.template.class_path: steer_lightning.data.PlainTemplate",
            )
        try:
            text: str = tokenizer.apply_chat_template(
                self.messages(question), tokenize=False, add_generation_prompt=True, **self.options
            )
        except RAISED as error:  # Gemma 2 and others refuse a system message
            told = one_line(error) or type(error).__name__
            raise ConfigError(
                KEY,
                type(self).__name__,
                rule=f"the chat template{_of(tokenizer)} refuses the messages: {told}",
                fix=f"{self._remedy()}, or use steer_lightning.data.PlainTemplate",
            ) from error
        if self.system and text.strip() and _words(self.system) not in _words(text):
            raise ConfigError(
                f"{KEY}.init_args.system",
                self.system,
                rule=f"the chat template{_of(tokenizer)} drops it",
                why="The model would never read it",
                fix=self._remedy(),
            )
        return text

    def messages(self, question: str) -> list[dict[str, str]]:
        """Returns the messages that present a question to the model."""
        if self.system and self.system_in_user:
            return [{"role": "user", "content": f"{self.system}\n\n{question}"}]
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return [*messages, {"role": "user", "content": question}]

    def _remedy(self) -> str:
        """Returns the remedy for a chat template that does not accept the messages."""
        if not self.system or self.system_in_user:
            return "Fix the model's chat template"
        return (
            f"If it accepts no system message, set {KEY}.init_args.system_in_user: true to put it "
            f"before the question, or {KEY}.init_args.system: null to leave it out"
        )

    def encode(self, text: str, tokenizer: Any) -> list[int]:
        """Encodes a rendered text, which already contains its special tokens."""
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class PlainTemplate:
    r"""Renders questions with a plain text, for base models that have no chat template.

    Args:
        text: Text that contains `{question}`; other braces are literal, so that `\boxed{}` needs
            no escape.

    Raises:
        ConfigError: If the text drops the question.
    """

    def __init__(self, text: str = f"User: {{question}}\n{INSTRUCTION}\n\nAssistant:") -> None:
        if "{question}" not in text:
            raise ConfigError(
                "data.template.init_args.text",
                text,
                rule="must contain {question}",
                why="Without it, the model never sees the problem",
            )
        self.text = text

    def render(self, question: str, tokenizer: Any) -> str:
        """Renders a question; see `Template.render`."""
        return self.text.replace("{question}", question)

    def encode(self, text: str, tokenizer: Any) -> list[int]:
        """Encodes a rendered text, to which the tokenizer adds special tokens such as BOS.

        Some of them are removed again: all those after the text, such as EOS and separators, which
        would tell the model that nothing follows; and BOS if the text already begins with one.
        """
        ids: list[int] = tokenizer(text)["input_ids"]
        bos = tokenizer.bos_token_id
        ends_special = not tokenizer.decode(ids[-1:], skip_special_tokens=True)
        begins_twice = bos is not None and ids[:2] == [bos, bos]
        if not ends_special and not begins_twice:
            return ids
        own: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        places = range(len(ids) - len(own) + 1)
        start = next((k for k in places if ids[k : k + len(own)] == own), None)
        if start is not None:
            ids = ids[: start + len(own)]
        return ids[1:] if begins_twice and own[:1] == [bos] != own[1:2] else ids


def check_template(template: Template, tokenizer: Any) -> None:
    """Raises a ConfigError if the template drops the question, since some ignore roles.

    It also refuses a chat template that does not open the assistant's message. It warns of options
    that the model's chat template does not use, and of a system message that the template adds.
    """
    rendered = render(template, PROBE, tokenizer)
    if PROBE not in rendered:
        raise ConfigError(
            KEY,
            type(template).__name__,
            rule="drops the question",
            why=f"The question {PROBE!r} is rendered as {rendered[:200]!r}",
            fix="Use another template, or fix the model's chat template",
        )
    if isinstance(template, ChatTemplate):
        _check_opening(template, tokenizer)
        _tell_of_options(template, tokenizer)
        _tell_of_preamble(template, tokenizer)


def _check_opening(template: ChatTemplate, tokenizer: Any) -> None:
    """Refuses a chat template whose prompts do not end in the text that it writes before answers.

    Such a template ignores `add_generation_prompt`, and a model would have to open its own message.
    """
    asked = template.messages(PROBE)
    prompt = _conversation(template, tokenizer, asked, add_generation_prompt=True)
    if prompt != _conversation(template, tokenizer, asked):
        return
    answered = [*asked, {"role": "assistant", "content": REPLY}]
    text = _conversation(template, tokenizer, answered)
    opening, reply, _ = text.removeprefix(prompt).partition(REPLY)
    if text.startswith(prompt) and reply and opening.strip():
        raise ConfigError(
            KEY,
            type(template).__name__,
            rule=f"the chat template{_of(tokenizer)} ignores add_generation_prompt, and does not "
            "open the assistant's message",
            why=f"Its prompts end in {prompt[-60:]!r}, but answers begin after {opening!r}",
            fix="Fix the model's chat template, or use steer_lightning.data.PlainTemplate",
        )


def _conversation(
    template: ChatTemplate, tokenizer: Any, messages: list[dict[str, str]], **options: Any
) -> str:
    """Renders a conversation; empty if the chat template does not accept it."""
    options = {"add_generation_prompt": False, **options, **template.options}
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except RAISED as error:
        log.debug("the chat template does not accept a conversation: %s", one_line(error))
        return ""
    return text


def _tell_of_options(template: ChatTemplate, tokenizer: Any) -> None:
    source = str(tokenizer.chat_template)  # a dictionary if there are several
    known = set(re.findall(r"\w+", source))
    known |= set(signature(tokenizer.apply_chat_template).parameters)
    unknown = [name for name in template.options if name not in known]
    if unknown:
        log.warning(
            "%s.init_args.options: the chat template%s does not use %s",
            one_line(with_own_keys(KEY)),
            one_line(_of(tokenizer)),
            one_line(", ".join(unknown)),
        )


def _tell_of_preamble(template: ChatTemplate, tokenizer: Any) -> None:
    """Warns if a chat template without a system message writes its own, as Qwen2.5's does.

    Text before the first question that is absent before the second is not a message marker.
    """
    if template.system and not template.system_in_user:
        return
    told = (("user", PROBE), ("assistant", REPLY), ("user", PROBE))
    messages = [{"role": role, "content": content} for role, content in told]
    text = _conversation(template, tokenizer, messages)
    for token in tokenizer.added_tokens_decoder.values():
        text = text.replace(token.content, "") if token.special else text
    first, _, rest = text.partition(PROBE)
    second = rest.rpartition(REPLY)[2].partition(PROBE)[0]
    pairs = zip(reversed(first), reversed(second), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    written = first[: len(first) - shared]
    if any(map(str.isalnum, written)):
        log.warning(
            "%s: the chat template%s gets no system message, but writes one of its own, "
            "which the model reads: %s",
            one_line(with_own_keys(KEY)),
            one_line(_of(tokenizer)),
            quoted(_words(written)[:200]),
        )


def render(template: Template, question: str, tokenizer: Any) -> str:
    """Renders a question with any template.

    Args:
        template: Template, which may be a user's own.
        question: Text of the question.
        tokenizer: Tokenizer of the model.

    Raises:
        ConfigError: If the template raises an error, returns no text, or returns an empty text.
    """
    name = type(template).__name__
    fix = "Use another template, or fix this one or the model's chat template"
    why = f"The question is {quoted(question[:200])}"
    try:
        text: Any = template.render(question, tokenizer)
    except ConfigError:
        raise
    except Exception as error:  # user code may raise anything
        rule = f"fails to render a question: {type(error).__name__}: {one_line(error)}"
        raise ConfigError(KEY, name, rule=rule, why=why, fix=fix) from error
    if not isinstance(text, str):
        rule = f"must render text, but returned {text!r:.100}"
        raise ConfigError(KEY, name, rule=rule, why=why, fix=fix)
    if not text.strip():
        raise ConfigError(KEY, name, rule="renders nothing", why=why, fix=fix)
    return text


def _of(tokenizer: Any) -> str:
    """Returns " of" and the tokenizer's name for errors; nothing if the name is unknown."""
    name = getattr(tokenizer, "name_or_path", "")
    return f" of {one_line(name)}" if name else ""


def _words(text: str) -> str:
    """Returns a text in one line, however it was broken into lines."""
    return " ".join(text.split())
