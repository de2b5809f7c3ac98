"""The exception for mistakes that a user can fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

UNKNOWN = object()
"""Placeholder for a value that is not known or not worth showing."""

SAME = object()
"""Placeholder for a value that stays as it is."""

_OWN_KEYS: ContextVar[Mapping[str, str]] = ContextVar("own keys", default={})  # noqa: B039  # empty


@contextmanager
def own_keys(names: Mapping[str, str]) -> Iterator[None]:
    """Makes messages within the block name the keys of the current command, not those of `fit`.

    Args:
        names: Keys of the current command by those of `fit`, such as `{"data.template":
            "template"}`.
    """
    token = _OWN_KEYS.set(names)
    try:
        yield
    finally:
        _OWN_KEYS.reset(token)


def with_own_keys(text: str) -> str:
    """Returns a message in which keys of `fit` are replaced by those of the current command.

    `ConfigError` calls this for its key and its sentences; for a warning, the caller must do so.
    """
    for of_fit, own in _OWN_KEYS.get().items():
        text = re.sub(rf"(?<![\w.]){re.escape(of_fit)}(?!\w)", own, text)
    return text


class ConfigError(ValueError):
    """Reports a mistake in a configuration or an input.

    Its message says what is wrong, the rule, why the rule holds, and what to set instead. The
    command line prints the message without a traceback.

    Args:
        key: The option or input that is wrong, as the user wrote it, such as
            `model.sampling.group_size`.
        value: Value of the option; `UNKNOWN` is not shown.
        rule: Rule that the value breaks.
        why: Reason for the rule.
        fix: What to set instead, or a question such as `Did you mean vectors?`.
    """

    def __init__(self, key: str, value: object, *, rule: str, why: str = "", fix: str = "") -> None:
        self.key, self.value = with_own_keys(key), value
        self.rule, self.why, self.fix = map(with_own_keys, (rule, why, fix))
        shown = "" if value is UNKNOWN else f" = {value!r}"
        if len(shown) > 300:  # a whole prompt or file would bury the rule
            shown = shown[:300] + "..."
        parts = [f"{self.key}{shown}: {self.rule}."]
        parts += [f"{self.why}."] if self.why else []
        parts += [self.fix if self.fix.endswith("?") else f"{self.fix}."] if self.fix else []
        super().__init__(" ".join(parts))

    def at(self, key: str, value: object = SAME) -> ConfigError:
        """Returns the same error at another key.

        Args:
            key: Whole key, if the code that raised the error knew only a part of it.
            value: Value at that key; by default the same.
        """
        value = self.value if value is SAME else value
        return ConfigError(key, value, rule=self.rule, why=self.why, fix=self.fix)


class ConfigErrors(ConfigError):
    """Reports several mistakes at once, one on each line.

    Args:
        errors: Mistakes, at least two.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = list(errors)
        rule = f"{len(errors)} settings are wrong"
        super().__init__("configuration", UNKNOWN, rule=rule)
        self.args = ("\n".join([f"{rule}:", *map(str, errors)]),)
