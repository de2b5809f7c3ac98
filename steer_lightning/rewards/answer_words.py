r"""The comparison of words, dates, times and ratios: `\text{June 20}`, `3:00 PM`, `3:2`.

All texts have been through `answer_text.tidy`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd
from typing import NamedTuple

from steer_lightning.rewards.answer_collections import separated
from steer_lightning.rewards.answer_numbers import read_number

IN_WORDS = re.compile(r"(?:\\text\{[^{}\\]*\}|[A-Za-z0-9 ,.'()!?:-])+")
MONTHS = {
    name[:3]: name
    for name in (
        *("january", "february", "march", "april", "may", "june", "july", "august"),
        *("september", "october", "november", "december"),
    )
}
DATE = re.compile(r"(?:(\d{1,2}) (?:of )?([a-z]+)|([a-z]+) (\d{1,2}))(?: (\d{4}))?")
FUNCTIONS = re.compile(
    r"(?<![A-Za-z])(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac|infty|det|gcd|lcm|max"
    r"|min)h?[a-z]?(?![A-Za-z])"
)
SHORT_WORDS = {"no", "yes", "odd", "one", "two", "six", "ten", "red", "all", "any"}
FIRST_NAME = re.compile("(?=...)[A-Z][a-z]*[aeiou][a-z]*")
SEQUENCE = re.compile(r"(\\(?:measured)?angle ?)?\{? ?([A-Z]{3,}) ?\}?")
TIME = re.compile(r"(\d{1,2})(?: ?: ?(\d\d))? ?(?:(am|pm)|o'clock)?")


def _plain(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text)


def words_of(text: str) -> str | None:
    """Returns an answer in words in a uniform spelling; None for mathematics."""
    if not IN_WORDS.fullmatch(text):
        return None
    words = re.sub(r"[().!?]", "", _plain(text).lower()).strip()
    words = re.sub(r"(?<=\d)(?:st|nd|rd|th)(?![a-z])", "", words)
    words = re.sub(r"^(?:the|an?) (?=[a-z]{2})", "", " ".join(words.split()))
    return _date(words) or words


def _date(words: str) -> str | None:
    found = DATE.fullmatch(" ".join(words.replace(",", " ").split()))
    if found is None:
        return None
    name, day = found[2] or found[3], found[1] or found[4]
    month = MONTHS.get(name[:3], "")
    if name not in (month, month[:3], "sept"):
        return None
    return f"{month} {int(day)} {found[5] or ''}".strip()


def is_said(text: str) -> bool:
    """Returns whether an answer is certainly in words, not a product of letters."""
    words = words_of(text)
    if not words or not words[0].isalpha():
        return False
    if text.startswith("\\text{"):
        return True
    if FIRST_NAME.fullmatch(text) or text.lower() in SHORT_WORDS:
        return True
    return re.search("[A-Za-z]{4}", text) is not None and not FUNCTIONS.search(text)


def compare_sequences(answer: str, gold: str) -> bool | None:
    r"""Compares capitals letter by letter: `HTH`, `SAS`, and the angle `ABC`, which equals `CBA`.

    Two capitals, such as `AB`, may be a product or the two ends of a segment, in any order.
    """
    given, expected = (SEQUENCE.fullmatch(_plain(text)) for text in (answer, gold))
    if given is None or expected is None or bool(given[1]) != bool(expected[1]):
        return None
    return given[2] == expected[2] or bool(given[1] and given[2] == expected[2][::-1])


ORDERED = {"true", "false", "yes", "no"}


def compare_listed_words(answer: str, gold: str) -> bool | None:
    r"""Returns whether lists have the same words, as `\text{I and II}` and `I, II`; else None."""
    given, expected = (
        sorted(words_of(part) or "" for part in separated(_plain(text))) for text in (answer, gold)
    )
    if len(expected) < 2 or not all(expected) or ORDERED.intersection(expected):
        return None
    return True if given == expected and re.search("[a-z]", expected[-1]) else None


def compare_words(answer: str, gold: str) -> bool | None:
    """Returns whether answers in words are the same; None unless the gold one surely has words."""
    given, expected = words_of(answer), words_of(gold)
    said = is_said(gold)
    if given is None or given != expected or not re.search("[a-z]", given):
        return False if said else None
    return True if said or is_said(answer) or re.search("[a-z]{3}", given) else None


class Time(NamedTuple):
    """A time of day."""

    hour: int
    minute: int
    half: str | None
    """`am`, `pm`, or None if not given."""

    def is_sure(self) -> bool:
        """Whether it is certainly not a ratio, which 3:20 may be."""
        return self.half is not None or self.minute < 10

    def equals(self, other: Time) -> bool:
        """Returns whether both may be the same; what one of them lacks makes no difference."""
        if self.minute != other.minute:
            return False
        if None not in (self.half, other.half):
            return (self.hour % 12, self.half) == (other.hour % 12, other.half)
        if self.half is other.half:
            return self.hour == other.hour
        told, open_ = (self, other) if self.half else (other, self)
        of_day = told.hour % 12 + 12 * (told.half == "pm")
        return open_.hour in (of_day, told.hour)


def read_time(text: str) -> Time | None:
    """Reads an answer that is a time of day; None for anything else."""
    plain = " ".join(_plain(text).lower().replace(".", "").split())
    found = TIME.fullmatch(plain)
    if found is None or (found[2] is None and found[3] is None):
        return None
    hour, minute = int(found[1]), int(found[2] or 0)
    return Time(hour, minute, found[3]) if hour < 24 and minute < 60 else None


def read_ratio(text: str) -> tuple[Fraction, ...] | None:
    """Returns the parts of a ratio as shares of their sum; None for anything else."""
    plain = _plain(text).replace(r"\colon", ":")
    parts = re.split(r" ?: ?| to ", plain)
    if len(parts) < 2 or len(parts) > 10:
        return None
    numbers = [read_number(part.strip()) for part in parts]
    values = [number.value for number in numbers if number is not None]
    if len(values) < len(parts) or min(values) <= 0:
        return None
    return tuple(value / sum(values) for value in values)


def _is_no_ratio(gold: Time) -> bool:
    """Returns whether a gold answer is a time; a ratio would be in lowest terms."""
    return gold.is_sure() or gcd(gold.hour, gold.minute) > 1


def compare_times(answer: str, gold: str) -> bool | None:
    """Returns whether times or ratios are equal; None if the gold answer is neither."""
    given, expected = read_time(answer), read_time(gold)
    if given is not None and expected is not None and given.equals(expected):
        return True
    shares = None if given is not None and given.is_sure() else read_ratio(answer)
    of_gold = None if expected is not None and _is_no_ratio(expected) else read_ratio(gold)
    if shares is not None and of_gold is not None:
        return shares == of_gold
    if given is not None and expected is not None:
        return False
    number = read_number(answer if of_gold else gold)
    ratio = of_gold or shares
    if ratio is not None and number is not None and len(ratio) == 2:
        return ratio[0] == number.value * ratio[1]
    return False if expected is not None and not of_gold and len(separated(answer)) == 1 else None
