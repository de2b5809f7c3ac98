"""The exception for mistakes that a user can mend."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = object()
"""Placeholder for a value that is not known or not worth showing."""


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
        fix: What to set instead.
    """

    def __init__(self, key: str, value: object, *, rule: str, why: str = "", fix: str = "") -> None:
        self.key, self.value, self.rule, self.why, self.fix = key, value, rule, why, fix
        shown = "" if value is UNKNOWN else f" = {value!r}"
        if len(shown) > 300:  # a whole prompt or file would bury the rule
            shown = shown[:300] + "..."
        parts = [f"{key}{shown}: {rule}."]
        parts += [f"{why}."] if why else []
        parts += [f"{fix}."] if fix else []
        super().__init__(" ".join(parts))


class ConfigErrors(ConfigError):
    """Reports several mistakes at once, each in its own line.

    Args:
        errors: Mistakes, at least two.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = list(errors)
        rule = f"{len(errors)} settings are wrong"
        super().__init__("configuration", UNKNOWN, rule=rule)
        self.args = ("\n".join([f"{rule}:", *map(str, errors)]),)
