r"""The comparison of answers in parts: lists `1, -2`, sets `\{1, 2\}`, tuples `(1, 2)`, matrices.

The order matters only in tuples and matrices. A list is compared with a set as a set, and with a
tuple as a tuple; a set never equals a tuple. All texts have been through `answer_text.tidy`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from steer_lightning.rewards.answer_text import CLOSING, OPENING, closing, squeezed

Same = Callable[[str, str], bool]
"""Function that tells whether a part of the answer equals a part of the gold answer."""

TOKENS = re.compile(
    r"\\(?:[lr]angle|[lr]floor|[lr]ceil|cup)(?![a-zA-Z])|\\.|[()\[\]{};]|,(?!000(?!\d))"
    r"|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
)
LISTING = frozenset((",", ";", "and", "or"))

MATRIX = re.compile(
    r"[(\[]? ?\\begin ?\{ ?((?:p|b|small)?matrix|array) ?\}(?:\{[lcr| ]*\})?(.*)"
    r"\\end ?\{ ?\1 ?\} ?[)\]]?",
    re.DOTALL,
)


class Collection(NamedTuple):
    """An answer with several parts."""

    kind: Literal["list", "set", "tuple"]
    brackets: str
    items: tuple[str, ...]


def separated(text: str, separators: frozenset[str] = LISTING) -> list[str]:
    """Splits a text at the separators outside of brackets.

    `1,200, 1,500` are two numbers: if there is another separator, a comma directly followed by
    three digits belongs to a number.
    """
    found = _outer(text, separators)
    if found is None:
        return [text]
    inner = _thousands(text) if len(found) > 1 else set()
    groups = [token.end() in inner for token in found]
    if any(groups) and not all(groups):
        found = [token for token, is_group in zip(found, groups, strict=True) if not is_group]
    starts = [0, *(token.end() for token in found)]
    ends = [*(token.start() for token in found), len(text)]
    parts = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return [part for part in parts if part]


def _outer(text: str, separators: frozenset[str]) -> list[re.Match[str]] | None:
    """Returns the separators outside of brackets; None if a bracket is closed but not opened."""
    found, depth = [], 0
    for token in TOKENS.finditer(text):
        sign = token.group()
        if sign in OPENING:
            depth += 1
        elif sign in CLOSING:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and sign in separators:
            found.append(token)
    return found


THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,]\d|\d)")


def _thousands(text: str) -> set[int]:
    """Returns the ends of the commas within numbers such as 1,200,000."""
    numbers = [(found.start(), found.group()) for found in THOUSANDS.finditer(text)]
    return {start + n + 1 for start, number in numbers for n, x in enumerate(number) if x == ","}


def read_collection(text: str) -> Collection | None:
    """Returns the parts of an answer; None if it has only one."""
    opening = re.match(r"\\\{|\\langle ?|[(\[]", text)
    ending = re.search(r"(?:\\\}|\\rangle|[)\]])$", text)
    if opening is not None and ending is not None and closing(text, 0) == len(text) - 1:
        items = separated(text[opening.end() : ending.start()])
        if opening.group() == r"\{":
            return Collection("set", "", _both_signs(items))
        if len(items) > 1 and r"\pm" not in text:
            brackets = "()" if opening.group().startswith("\\") else text[0] + text[-1]
            return Collection("tuple", brackets, tuple(items))
    items = list(_both_signs(separated(text)))
    return Collection("list", "", tuple(items)) if len(items) > 1 else None


def _both_signs(items: Sequence[str]) -> tuple[str, ...]:
    r"""Returns the two parts that `1 \pm x` stands for."""
    found: list[str] = []
    for item in items:
        plus = re.sub(r"\\pm(?![a-zA-Z])", "+", item)
        if plus == item:
            found.append(item)
            continue
        minus = re.sub(r"\\pm(?![a-zA-Z])", "-", item)
        for sign, text in (("-", plus), ("+", minus)):
            found.append(re.sub(r"\\mp(?![a-zA-Z])", sign, text).strip())
    return tuple(found)


def compare_collections(answer: str, gold: str, same: Same) -> bool | None:
    """Returns whether two collections are equal; None unless both answers are collections."""
    given, expected = read_collection(answer), read_collection(gold)
    if given is None or expected is None:
        return _single(given, gold, same) if expected is None else _single(expected, answer, same)
    kinds = {given.kind, expected.kind}
    if "set" in kinds and "tuple" not in kinds:
        given, expected = _once(given), _once(expected)
    if kinds == {"tuple", "set"} or len(given.items) != len(expected.items):
        return False
    if given.brackets != expected.brackets:
        if "list" not in kinds or "()" not in (given.brackets, expected.brackets):
            return False
        return _in_order(given.items, expected.items, same)
    if "tuple" in kinds or _one_is_named(given.items, expected.items):
        return _in_order(given.items, expected.items, same)
    return _in_any_order(given.items, expected.items, same)


def _once(collection: Collection) -> Collection:
    return collection._replace(items=tuple(dict.fromkeys(collection.items)))


def _single(collection: Collection | None, other: str, same: Same) -> bool | None:
    r"""Compares a single part without its braces: `\{5\}` is 5."""
    if collection is None or collection.kind != "set" or len(collection.items) != 1:
        return None
    return same(collection.items[0], other)


def _one_is_named(given: Sequence[str], expected: Sequence[str]) -> bool:
    """Returns whether only one of the two names its parts, as in `a = 1, b = 2`."""
    names = [all("=" in item for item in items) for items in (given, expected)]
    heads = [{item.split("=")[0] for item in items} for items in (given, expected)]
    apart = any(len(head) == len(given) for name, head in zip(names, heads, strict=True) if name)
    return names[0] != names[1] and apart


def _in_order(given: Sequence[str], expected: Sequence[str], same: Same) -> bool:
    return all(same(one, other) for one, other in zip(given, expected, strict=True))


def _in_any_order(given: Sequence[str], expected: Sequence[str], same: Same) -> bool:
    left = list(given)
    waiting = []
    for part in expected:  # equal texts first, because comparing them costs nothing
        equal = next((one for one in left if squeezed(one) == squeezed(part)), None)
        if equal is None:
            waiting.append(part)
        else:
            left.remove(equal)
    for part in waiting:
        equal = next((one for one in left if same(one, part)), None)
        if equal is None:
            return False
        left.remove(equal)
    return True


def compare_matrices(answer: str, gold: str, same: Same) -> bool | None:
    """Returns whether two matrices have equal cells; None unless both answers are matrices."""
    given, expected = _cells(answer), _cells(gold)
    if (given is None) != (expected is None):  # a vector may be written in one line
        given, expected = given or _column(answer), expected or _column(gold)
    if given is None or expected is None:
        return None
    if [len(row) for row in given] != [len(row) for row in expected]:
        return False
    pairs = zip(given, expected, strict=True)
    return all(_in_order(one, other, same) for one, other in pairs)


def _column(text: str) -> list[list[str]] | None:
    found = read_collection(text)
    if found is None or (found.kind, found.brackets) != ("tuple", "()"):
        return None
    return [[item] for item in found.items]


def _cells(text: str) -> list[list[str]] | None:
    found = MATRIX.fullmatch(text)
    if found is None or r"\begin" in found[2]:
        return None
    rows = [row for row in found[2].split(r"\\") if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]
