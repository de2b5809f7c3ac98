r"""The comparison of named values and equations: `x = 5` is 5, and `2x = 5` is not.

The left side of an equation is left out if it only says what the right side is: a name, a quantity
such as `P(A)` or `\angle ABC`, or an expression that equals the right side. All texts have been
through `answer_text.tidy`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from steer_lightning.rewards.answer_collections import Same, separated
from steer_lightning.rewards.answer_text import squeezed

LETTER = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi"
    r"|omega|Delta|Omega|ell))"
)
ONE = rf"{LETTER}'*(?: ?_ ?(?:\{{[^{{}}]*\}}|\w))?"
FUNCTION = r"\\(?:(?:arc)?(?:sin|cos|tan)|cot|sec|csc|gcd|max|min|det|deg|dim|Re|Im|Pr)"
NAME = re.compile(
    "|".join(
        (
            rf"{ONE}(?: ?\([^-+()]*\))?",  # x, a_5, f(3), P(A \cup B)
            r"[fghpqFGHPQE]'* ?\([^()]*\)",  # f(x+1), which is no product
            r"[A-Z]{2,4}|[A-Z][a-z]{2,}|[A-Za-z]{4,}|\\text\{[^{}]*\}(?: ?\([^()]*\))?",
            r"m? ?\\(?:angle|triangle|overline|overrightarrow|vec|hat) ?"
            rf"\{{? ?(?:{ONE}|[A-Z]+) ?\}}?",
            rf"\|+ ?(?:[A-Z]{{1,2}}|{ONE}) ?\|+|\[[A-Z]+\]",  # |AB|, and the area [ABC]
            rf"{FUNCTION}(?: ?\(? ?(?:\\angle ?)?{ONE} ?\)?)?",
            rf"\( ?{ONE}(?: ?, ?{ONE})* ?\)|{ONE}(?: ?: ?{ONE})+",  # (x, y), a:b
        )
    )
)
"""Pattern of a single value: a name, or a quantity of geometry or probability."""

MEMBER = re.compile(rf"({ONE}(?: ?\([^-+()]*\))?|\\text\{{[^{{}}]*\}}) ?\\in(?![a-zA-Z]) ?")
LARGE = re.compile(r"(?<==) ?-?\d{1,3}(?:,\d{3})+(?:\.\d+)?$")
INEQUALITY = re.compile(r"[<>]|\\[lg]e(?![a-zA-Z])")
INNER = re.compile(r"\([^()]*\)|\{[^{}]*\}|\[[^\[\]]*\]")
INNER_EQUALS = "\0"


class Named(NamedTuple):
    """A value and its name."""

    name: str | None
    value: str


def compare_named(answer: str, gold: str, same: Same) -> bool | None:
    """Compares named values; None if neither has a name, and for equations to be solved.

    An answer such as `m + n = 25` may name the quantity in question, but a gold answer `x + y = 5`
    is an equation.
    """
    given, expected = read_named(answer, is_quantity, same), read_named(gold, is_name, same)
    if given is None or expected is None:
        return None
    if (given.value, expected.value) == (answer, gold):
        return None
    names = [squeezed(one.name) for one in (given, expected) if one.name is not None]
    return same(given.value, expected.value) if len(set(names)) < 2 else None


def read_named(text: str, is_left_out: Callable[[str], bool], same: Same) -> Named | None:
    """Returns an answer without its left side; None for a real equation.

    Args:
        text: Tidy text; in a chain of equations, the value comes last.
        is_left_out: Function that tells whether a left side only names the value.
        same: Function that compares a left side with the value.
    """
    member = MEMBER.match(text)
    if member is not None:
        return Named(member[1].strip(), text[member.end() :].strip())
    text = LARGE.sub(lambda found: found.group().replace(",", ""), text)
    if "=" not in text or INEQUALITY.search(text):
        return Named(None, text)
    if len(separated(text)) > 1:
        return None
    *lefts, value = sides(text)
    if not lefts or not value:
        return Named(None, text)
    name = lefts[0] if is_left_out(lefts[0]) else None
    steps = lefts[1:] if name is not None else lefts
    for step in steps:  # x = 2k = 10 has letters in between
        if not (name is not None and variables(step)) and not same(step, value):
            return None
    return Named(name, value)


def sides(text: str) -> list[str]:
    """Splits at the equals signs outside of brackets."""
    outer = INNER.sub(lambda found: found.group().replace("=", INNER_EQUALS), text)
    return [side.replace(INNER_EQUALS, "=").strip() for side in outer.split("=")]


def is_name(side: str) -> bool:
    """Returns whether a left side is a name or a quantity."""
    return NAME.fullmatch(side) is not None


def is_quantity(side: str) -> bool:
    """Returns whether the left side of an answer is the quantity in question, not an equation.

    An expression in several variables, such as `m + n`, is not an equation that a number solves.
    """
    return is_name(side) or len(variables(side)) > 1


def variables(text: str) -> set[str]:
    """Returns the letters of an expression, without those that stand for numbers."""
    plain = re.sub(rf"(?!{LETTER}(?![a-zA-Z]))\\[a-zA-Z]+", " ", text)
    return set(re.findall(LETTER, plain)) - {"e", "i"}
