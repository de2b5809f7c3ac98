r"""The comparison of intervals: `[-2, 7]`, `-2 \le x \le 7`, `x \in [-2, 7]`, unions.

All texts have been through `answer_text.tidy`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from steer_lightning.rewards.answer_collections import Same, separated
from steer_lightning.rewards.answer_numbers import read_number
from steer_lightning.rewards.answer_text import closing, squeezed

SIGN = re.compile(r" ?(<|>|\\[lg]e(?![a-zA-Z])) ?")
VARIABLE = re.compile(
    r"(?:[A-Za-z]|\\(?:theta|alpha|beta|phi|lambda|mu|omega))(?:_ ?\{? ?\w ?\}?)?"
)
MEMBER = re.compile(rf"({VARIABLE.pattern}) ?\\in(?![a-zA-Z]) ?")
BUILDER = re.compile(
    rf"\\\{{ ?({VARIABLE.pattern})(?: ?\\in ?\\mathbb ?(?:\{{R\}}|R))? ?"
    r"(?:\||:|\\mid|\\colon)(.*)\\\}"
)
ABSOLUTE = re.compile(rf"\| ?({VARIABLE.pattern}) ?\| ?(<|>|\\[lg]e(?![a-zA-Z])) ?([^<>|]+)")
ALL = re.compile(r"\\mathbb ?\{? ?R ?\}?|(?:\\text\{)? ?all reals?(?: numbers)? ?\}?")
INFINITE = {r"\infty": "oo", r"+\infty": "oo", r"-\infty": "-oo", "inf": "oo", "-inf": "-oo"}


class Span(NamedTuple):
    """All numbers between two bounds."""

    low: str
    has_low: bool
    high: str
    has_high: bool


EVERYTHING = Span("-oo", False, "oo", False)


class Region(NamedTuple):
    """Spans, and the name of the variable in them."""

    spans: tuple[Span, ...]
    variable: str | None
    is_sure: bool
    """False if it may also be a point, such as (1, 2)."""


def compare_intervals(answer: str, gold: str, same: Same) -> bool | None:
    """Returns whether two answers are the same intervals; None unless both are intervals."""
    given, expected = read_region(answer), read_region(gold)
    if given is None or expected is None or not (given.is_sure or expected.is_sure):
        return None
    if None not in (given.variable, expected.variable) and given.variable != expected.variable:
        return False
    left = list(given.spans)
    for span in expected.spans:
        equal = next((one for one in left if _equal(one, span, same)), None)
        if equal is None:
            return False
        left.remove(equal)
    return not left


def _equal(given: Span, expected: Span, same: Same) -> bool:
    ends = (given.has_low, given.has_high) == (expected.has_low, expected.has_high)
    pairs = ((given.low, expected.low), (given.high, expected.high))
    return ends and all(one == other or _finite(one, other, same) for one, other in pairs)


def _finite(one: str, other: str, same: Same) -> bool:
    infinite = {"oo", "-oo"}
    return one not in infinite and other not in infinite and same(one, other)


def read_region(text: str) -> Region | None:
    """Returns the intervals in an answer; None if it has none."""
    builder = BUILDER.fullmatch(text)
    if builder is not None:
        return _spans(builder[2].strip())
    member = MEMBER.match(text)
    if member is not None:
        inner = _spans(text[member.end() :].strip())
        return inner and inner._replace(variable=squeezed(member[1]), is_sure=True)
    return _spans(text)


def _spans(text: str) -> Region | None:
    if ALL.fullmatch(text):
        return Region((EVERYTHING,), None, True)
    text = ABSOLUTE.sub(_without_bars, text) if ABSOLUTE.fullmatch(text) else text
    parts = separated(text, frozenset((r"\cup",)))
    if len(parts) == 1 and SIGN.search(text):
        parts = separated(text)
    spans, variables = [], set()
    for part in parts:
        found = _bracketed(part) or _inequality(part)
        if found is None:
            return None
        spans.append(found[0])
        variables.add(found[1])
    if len(variables) != 1:
        return None
    if "and" in separators(text):
        spans = _both(spans)
    (variable,) = variables
    sure = len(spans) > 1 or variable is not None or not _may_be_point(text, spans[0])
    return Region(tuple(spans), variable, sure)


def _without_bars(found: re.Match[str]) -> str:
    """Writes `|x| < 3` as `-3 < x < 3`, and `|x| > 3` as two inequalities."""
    name, sign, high = found[1], found[2], found[3].strip()
    low = f"-{high}" if read_number(high) else f"-({high})"
    if sign in ("<", r"\le"):
        return f"{low} {sign} {name} {sign} {high}"
    turned = "<" if sign == ">" else r"\le"
    return f"{name} {turned} {low} or {name} {sign} {high}"


def separators(text: str) -> list[str]:
    """Returns the words that join parts of an answer."""
    return re.findall(r"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])", text)


def _may_be_point(text: str, span: Span) -> bool:
    return text[0] == "(" and text[-1] == ")" and span.low != "-oo" and span.high != "oo"


def _both(spans: list[Span]) -> list[Span]:
    """Joins `x > 1 and x < 5` into one interval if the two bounds are numbers that allow it."""
    if len(spans) != 2:
        return spans
    low, high = sorted(spans, key=lambda span: span.low == "-oo")
    ends = read_number(low.low), read_number(high.high)
    if (low.high, high.low) != ("oo", "-oo") or ends[0] is None or ends[1] is None:
        return spans
    if ends[0].value >= ends[1].value:
        return spans
    return [Span(low.low, low.has_low, high.high, high.has_high)]


def _bracketed(text: str) -> tuple[Span, None] | None:
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]"):
        return None
    items = separated(text[1:-1], frozenset(",;"))
    if closing(text, 0) != len(text) - 1 or len(items) != 2:
        return None
    low, high = (INFINITE.get(squeezed(item), item) for item in items)
    return Span(low, text[0] == "[", high, text[-1] == "]"), None


def _inequality(text: str) -> tuple[Span, str] | None:
    parts = [part.strip() for part in SIGN.split(text)]
    values, signs = parts[::2], parts[1::2]
    if len(values) not in (2, 3) or not all(values):
        return None
    if signs[0] in (">", r"\ge"):  # rewritten from the smaller to the larger side
        turned = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
        values, signs = values[::-1], [turned[sign] for sign in signs[::-1]]
    if any(sign in (">", r"\ge") for sign in signs):
        return None
    is_variable = [VARIABLE.fullmatch(value) is not None for value in values]
    ends = [INFINITE.get(squeezed(value), value) for value in values]
    closed = [sign == r"\le" for sign in signs]
    if is_variable == [False, True, False]:
        return Span(ends[0], closed[0], ends[2], closed[1]), squeezed(values[1])
    if is_variable == [True, False]:
        return Span("-oo", False, ends[1], closed[0]), squeezed(values[0])
    if is_variable == [False, True]:
        return Span(ends[0], closed[0], "oo", False), squeezed(values[1])
    return None
