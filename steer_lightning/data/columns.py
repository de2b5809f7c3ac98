"""Takes questions and gold answers from a row's columns, as text, or refuses them.

Python could write any value as some text: a list as `['70']`, a large number as `1e+16`. No answer
of a model would equal such a gold answer, and nobody would notice. So a value is accepted only if
it has one plain text form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from numbers import Integral
from typing import Any, TypeGuard

MISSING = object()
"""Stands for a column that a row does not have."""


ARRAY = re.compile(
    r"array\(\[.*\](?:, dtype=\w+)?\)|(?:np|numpy)\.(?:float|int|uint|bool|str|bytes)\w*\([^()]*\)",
    re.DOTALL,
)
"""How numpy writes an array or a number; no person writes a question or an answer like this."""

PRINTED = re.compile(
    r"(?i:nan|null|none|nat|n/a|<na>)"
    r"|b'.*'|b\".*\""
    r"|\[?\{'[^']*': .*\}\]?",
    re.DOTALL,
)
"""How a program writes a missing value, bytes, or named values.

Each may also be intended: `None` can be one of several choices, and named values can be a program's
output. Lists such as `[1, 2]` are not included: in mathematics they are answers.
"""


class OddValueError(ValueError):
    """The error for a value that can't be taken as text.

    Args:
        rule: Rule that the value breaks.
        fix: What to do instead.
    """

    def __init__(self, rule: str, fix: str) -> None:
        super().__init__(rule)
        self.rule, self.fix = rule, fix


def value_at(row: Mapping[str, object], column: str) -> object:
    """Returns the value of a column.

    Args:
        row: Values by column.
        column: Name of a column, or a path with dots into nested values, such as
            `reward_model.ground_truth`, or `prompt.0.content` for the first item of a list.

    Returns:
        The value; `MISSING` if the row does not contain it.
    """
    if column in row:
        return row[column]
    found: object = row
    for part in column.split("."):
        if isinstance(found, Mapping):
            found = found.get(part, MISSING)
        elif _is_list(found) and part.isascii() and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return MISSING
    return found


def names_of(row: Mapping[str, object]) -> Iterator[str]:
    """Yields the names of a row's columns, for errors; for nested values, the paths to them."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield str(name)


def as_text(value: object, column: str) -> str | None:
    """Returns a value as text.

    Args:
        value: Text, a number, or a list that contains exactly one of them.
        column: Column of the value, for errors.

    Returns:
        Text unchanged, numbers as plain decimals without an exponent; None for null, NaN and blank
        text.

    Raises:
        OddValueError: If the value is anything else, or text that numpy wrote for a value.
    """
    if value is None or value is MISSING:
        return None
    if isinstance(value, str):
        if ARRAY.fullmatch(value.strip()):
            raise OddValueError(
                "is numpy's text form of a value", "Write the value itself into the file"
            )
        return value if value.strip() else None
    if isinstance(value, bool):
        raise OddValueError("is true or false, not text or a number", "Write it as text")
    if isinstance(value, (Integral, float, Decimal)):
        return _as_decimal(value)
    if _is_list(value):
        if len(value) == 1:
            return as_text(value[0], f"{column}.0")
        raise OddValueError(
            f"is a list of {len(value)} values, but one value is needed",
            f"Name one of them by its path, such as {column}.0, or join them in the file",
        )
    if isinstance(value, Mapping):
        names = list(map(str, value))
        raise OddValueError(
            f"holds named values: {', '.join(map(repr, names[:5]))}",
            f"Name one of them by its path, such as {column}.{_likeliest(names)}",
        )
    kind = type(value).__name__
    raise OddValueError(f"is of type {kind}, not text or a number", "Write it as text")


def _likeliest(names: Sequence[str]) -> str:
    """Returns the name to suggest in a hint; in a part of a message, `type` is not the text."""
    return "text" if "text" in names else next(iter(names), "NAME")


def is_printed(text: str) -> bool:
    """Tells whether a text is how a program writes a missing or nested value; see `PRINTED`."""
    return PRINTED.fullmatch(text.strip()) is not None


def question_in(value: object, column: str) -> str | None:
    """Returns a question as text; see `as_text`.

    Args:
        value: Value of a kind that `as_text` takes, or a conversation with one message, as in
            verl's data sets: `[{"role": "user", "content": ...}]`.
        column: Column of the value, for errors.

    Raises:
        OddValueError: If the value is anything else, such as a conversation with several messages:
            the template writes the other messages.
    """
    if not _is_list(value) or not value or not all(map(_is_message, value)):
        return as_text(value, column)
    roles = [str(message["role"]) for message in value]
    if roles == ["user"]:
        return as_text(value[0]["content"], f"{column}.0.content")
    place = roles.index("user") if "user" in roles else 0
    raise OddValueError(
        f"is a conversation of {', '.join(map(repr, roles[:5]))}, not one message by the user",
        f"Name the message with the question by its path, {column}.{place}.content; "
        "data.template writes the system message",
    )


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and {"role", "content"} <= set(value)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _as_decimal(value: Integral | float | Decimal) -> str | None:
    """Returns a number without an exponent, in the shortest exact form."""
    if isinstance(value, Integral):
        number = Decimal(int(value))
    else:
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise OddValueError("is infinite", "Write it as text")
        # the repr of a float is the shortest decimal that reads back as the same number
        number = value if isinstance(value, Decimal) else Decimal(repr(float(value)))
    text = format(number, "f")
    return "0" if not number else text.removesuffix(".0")
