"""Turns a question into the text that the model reads."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jinja2 import TemplateError

from steer_lightning.errors import ConfigError

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
PROBE = "How many legs do 2 spiders and 1 cat have?"


@runtime_checkable
class Template(Protocol):
    """Renders a question."""

    def render(self, question: Any, tokenizer: Any, /) -> Any:
        """Takes a question and the model's tokenizer; returns the whole prompt as text."""
        ...

    def encode(self, text: Any, tokenizer: Any, /) -> Any:
        """Takes a rendered prompt.

        Returns its tokens as a list of integers, special tokens included.
        """
        ...


class ChatTemplate:
    """The chat template that comes with the model, with a system message.

    Args:
        system: The system message; null leaves it out.
        options: Further variables for the model's template, such as `enable_thinking: false` of
            Qwen3.
    """

    def __init__(
        self, system: str | None = INSTRUCTION, options: dict[str, Any] | None = None
    ) -> None:
        self.system, self.options = system, options or {}

    def render(self, question: str, tokenizer: Any) -> str:
        """See `Template.render`.

        Raises:
            ConfigError: If the tokenizer has no chat template, or it refuses the system message.
        """
        if not tokenizer.chat_template:
            raise ConfigError(
                "data.template",
                type(self).__name__,
                rule=f"the tokenizer of {tokenizer.name_or_path} has no chat template",
                why="It is a base model's",
                fix="Set data.template.class_path: steer_lightning.data.PlainTemplate",
            )
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": question})
        try:
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.options
            )
        except TemplateError as error:  # Gemma 2 and others refuse a system message
            raise ConfigError(
                "data.template",
                type(self).__name__,
                rule=f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}",
                fix="Set data.template.init_args.system: null where it takes no system message, or "
                "use steer_lightning.data.PlainTemplate",
            ) from error
        return text

    def encode(self, text: str, tokenizer: Any) -> list[int]:
        """See `Template.encode`; the rendered text holds its special tokens already."""
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class PlainTemplate:
    r"""A plain text, for base models that have no chat template.

    Args:
        text: Holds `{question}`; other braces stand for themselves, so `\boxed{}` needs no escape.

    Raises:
        ConfigError: If the text drops the question.
    """

    def __init__(self, text: str = f"User: {{question}}\n{INSTRUCTION}\n\nAssistant:") -> None:
        if "{question}" not in text:
            raise ConfigError(
                "data.template.init_args.text",
                text,
                rule="must contain {question}",
                why="Without it the model never sees the problem",
            )
        self.text = text

    def render(self, question: str, tokenizer: Any) -> str:
        """See `Template.render`."""
        return self.text.replace("{question}", question)

    def encode(self, text: str, tokenizer: Any) -> list[int]:
        """See `Template.encode`; the tokenizer adds its special tokens, such as BOS."""
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids


def check_template(template: Template, tokenizer: Any) -> None:
    """Raises a ConfigError if the template drops the question: some chat templates ignore roles."""
    rendered = template.render(PROBE, tokenizer)
    if PROBE not in rendered:
        raise ConfigError(
            "data.template",
            type(template).__name__,
            rule="drops the question",
            why=f"The question {PROBE!r} is rendered as {rendered[:200]!r}",
            fix="Use another template, or mend the model's chat template",
        )
