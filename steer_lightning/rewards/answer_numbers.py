r"""The exact reading of numbers as they are written: `1.70e4`, `2 220`, `1\frac{4}{5}`, `204_5`.

All texts have been through `answer_text.tidy`. The functions use exact arithmetic on a few digits,
so they can run anywhere without a deadline.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

# a longer number is not an answer, and exact arithmetic on it could take arbitrarily long
MAX_DIGITS = 60

DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?|\.\d+)"
POWER = r"(?:\{ ?\+?(-? ?\d{1,4}) ?\}|\(?\+?(-?\d{1,4})\)?)"
TIMES_TEN = rf" ?(?:\\times|\\cdot|\*|x|X)? ?(?<!\d)10 ?(?:\^|\*\*) ?{POWER}"
SCIENTIFIC = re.compile(
    rf"(?P<mantissa>{DECIMAL})(?:[eE]\+?(-?\d{{1,4}})|{TIMES_TEN})|10 ?(?:\^|\*\*) ?{POWER}"
)
FRACTION = re.compile(
    rf"\\frac ?\{{ ?(-? ?{DECIMAL}) ?\}} ?\{{ ?(-? ?{DECIMAL}) ?\}}|({DECIMAL}) ?/ ?({DECIMAL})"
)
MIXED = re.compile(r"(\d+) ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}|(\d+) (\d+) ?/ ?(\d+)")
REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot) ?\{ ?(\d+) ?\}")
BASED = re.compile(
    r"\(?([0-9][0-9A-Fa-f]*|[A-F]+[0-9][0-9A-F]*)\)? ?"
    r"(?:_ ?\{ ?(?P<a>\d{1,2}|[a-z]+) ?\}|_ ?(?P<b>\d{1,2})"
    r"|\(?(?:in )?base[ -]?(?P<c>\d{1,2}|[a-z]+)\)?)"
)
SIXTEEN = re.compile(r"\(?([0-9A-Fa-f]{2,})\)?(?: ?_ ?\{? ?16 ?\}?| ?\(?base 16\)?)")
BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

ROUNDED_PLACES = 6
"""Minimum number of decimal places with which a decimal stands for a fraction: 0.333333 is 1/3."""

SMALLEST_ROUNDED = Fraction(1, 1000)
"""Below this value, that many decimal places would have fewer than four significant digits."""


class Number(NamedTuple):
    """An exact value and the way it was written."""

    value: Fraction
    places: int | None
    """Number of decimal places; None if it is not a decimal, such as a fraction."""

    def equals(self, other: Number) -> bool:
        """Returns whether both are the same number.

        A decimal with six or more places also equals the fraction of which it is a rounded value.
        """
        if self.value == other.value:
            return True
        if (self.places is None) == (other.places is None):
            return False
        decimal, exact = (self, other) if other.places is None else (other, self)
        places = decimal.places or 0
        if places < ROUNDED_PLACES or abs(exact.value) < SMALLEST_ROUNDED:
            return False
        return round(exact.value, places) == decimal.value


def read_number(text: str) -> Number | None:
    """Reads a tidy text that is a number and nothing else; None for any other text."""
    if len(text) > MAX_DIGITS:
        return None
    sign = -1 if text.startswith("-") else 1
    rest = text[1:].lstrip() if text[:1] in ("-", "+") else text
    found = _unsigned(rest)
    return None if found is None else Number(sign * found.value, found.places)


def leading_number(text: str) -> tuple[Number, str] | None:
    """Returns the number at the start of a tidy text, and the rest, which is usually words."""
    head = LEADING.match(text[:MAX_DIGITS])
    if head is None:
        return None
    number = read_number(head.group().strip())
    return None if number is None else (number, text[head.end() :])


def _unsigned(text: str) -> Number | None:
    for pattern, reading in READINGS:
        found = pattern.fullmatch(text)
        if found is not None:
            return reading(found)
    return None


def _decimal(found: re.Match[str]) -> Number:
    digits = _digits(found.group())
    return Number(Fraction(digits), len(digits.partition(".")[2]))


def _scientific(found: re.Match[str]) -> Number:
    mantissa = _digits(found["mantissa"] or "1")
    power = int(next(part for part in found.groups()[1:] if part is not None).replace(" ", ""))
    places = len(mantissa.partition(".")[2]) - power
    return Number(Fraction(mantissa) * Fraction(10) ** power, max(0, places))


def _fraction(found: re.Match[str]) -> Number | None:
    above, below = (Fraction(_digits(part)) for part in found.groups() if part is not None)
    return Number(above / below, None) if below else None


def _mixed(found: re.Match[str]) -> Number | None:
    whole, above, below = (int(part) for part in found.groups() if part is not None)
    if not 0 < above < below:  # 2\frac{3}{2} may as well be a product
        return None
    return Number(whole + Fraction(above, below), None)


def _repeating(found: re.Match[str]) -> Number:
    whole, once, again = found.groups()
    ninths = Fraction(int(again), 10 ** len(again) - 1) / 10 ** len(once)
    return Number(Fraction(f"{whole or 0}.{once or 0}") + ninths, None)


def _digits(text: str) -> str:
    return text.replace(",", "").replace(" ", "")


READINGS = (
    (re.compile(DECIMAL), _decimal),
    (SCIENTIFIC, _scientific),
    (FRACTION, _fraction),
    (MIXED, _mixed),
    (REPEATING, _repeating),
)
LEADING = re.compile(
    "[-+]? ?(?:"
    + "|".join(
        re.sub(r"\(\?P<\w+>", "(?:", pattern)
        for pattern in (
            *(MIXED.pattern, FRACTION.pattern, REPEATING.pattern),
            *(SCIENTIFIC.pattern, DECIMAL),
        )
    )
    + ")(?![\\d.,^_])"
)


class Based(NamedTuple):
    """Digits in a given base."""

    digits: str
    base: int


def read_based(text: str) -> Based | None:
    r"""Reads `204_5`, `204_{\text{five}}` or `204 (base 5)`; None if no base is given."""
    plain = re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text).strip()
    sixteen = SIXTEEN.fullmatch(plain)
    if sixteen is not None and len(text) <= MAX_DIGITS:
        return Based(sixteen[1].lstrip("0").upper() or "0", 16)
    found = BASED.fullmatch(plain)
    if found is None or len(text) > MAX_DIGITS:
        return None
    told = found["a"] or found["b"] or found["c"]
    base = int(told) if told.isdigit() else BASES.index(told) + 2 if told in BASES else 0
    return Based(found[1].lstrip("0").upper() or "0", base) if base > 1 else None
