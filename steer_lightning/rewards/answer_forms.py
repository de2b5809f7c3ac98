r"""The comparison of answers, form by form, as the authors of the benchmarks mean them.

Each rule handles one form: numbers, bases, times, words, units, matrices, intervals, collections,
names. A rule says that two answers are equal, that they are not, or nothing. Answers for which no
rule decides are compared as expressions. `docs/how-to/evaluate.md` has the table of forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise

from steer_lightning.rewards import answer_expressions
from steer_lightning.rewards.answer_collections import (
    compare_collections,
    compare_matrices,
    separated,
)
from steer_lightning.rewards.answer_equations import compare_named, variables
from steer_lightning.rewards.answer_intervals import compare_intervals
from steer_lightning.rewards.answer_numbers import Number, read_based, read_number
from steer_lightning.rewards.answer_text import is_whole, squeezed, tidy, unmarked
from steer_lightning.rewards.answer_units import (
    PERCENT,
    Measure,
    compare_compounds,
    conflict,
    read_measure,
    steps_between,
)
from steer_lightning.rewards.answer_words import (
    compare_listed_words,
    compare_sequences,
    compare_times,
    compare_words,
    read_time,
)

SENTENCE_END = re.compile(
    r"[?!](?=\s|$)|(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|vs))(?<!\bMrs)\.(?=\s+[A-Z\\$]|$)"
)
ASKED = re.compile(r"(?:find|compute|calculate|determine|express|give|what|how)\b", re.IGNORECASE)
PER_CENT = re.compile(r"%|\bper ?cent(?:age)?\b", re.IGNORECASE)
OF_A_NUMBER = re.compile(
    r"(?:[\d%]|(?<!['\u2019])\b(?:[b-z]|one|two|three|four|five|six|seven|eight|nine|ten|[a-z]+(?:teen|ty)))"
    r"[\s\\${},-]*$",
    re.IGNORECASE,
)
"""What comes before a per cent sign or word that tells a share, and does not ask for one."""

MAX_QUESTION = 1000
"""Number of characters at a question's end in which a percentage may be asked for."""


@lru_cache(maxsize=1024)  # the completions of a prompt share its question
def asks_for_percentage(question: str) -> bool:
    """Returns whether a sentence that asks for something, or the last one, asks for a percentage.

    A per cent sign or word after a number, as in `a 10% discount`, does not count.
    """
    text = question[-MAX_QUESTION:].rstrip()
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
    for start, end in pairwise(ends):
        sentence = text[start:end].strip()
        if not (sentence.endswith("?") or ASKED.match(sentence) or not text[end:].strip()):
            continue
        for found in PER_CENT.finditer(sentence):
            if not OF_A_NUMBER.search(sentence[max(0, found.start() - 30) : found.start()]):
                return True
    return False


def is_equal(answer: str, gold: str, question: str = "") -> bool:
    r"""Returns whether an answer has the same meaning as the gold answer.

    Args:
        answer: Answer of the model, without `boxed`.
        gold: Gold answer, without `boxed`; must be readable, see `is_readable`.
        question: Question that was asked. If it asks for a percentage and the gold answer has no
            sign, as in GSM8K, `60\%` is 60 and not 0.6.
    """
    if answer.strip() == gold.strip():
        return True
    if len(answer) > answer_expressions.MAX_CHARACTERS:
        return False
    given, expected = tidy(answer), tidy(gold)
    percent = PERCENT.search(given)
    if percent and not PERCENT.search(expected) and asks_for_percentage(question):
        given = given[: percent.start()].strip()
    return _same(given, expected)


def is_readable(gold: str) -> bool:
    """Returns whether a gold answer can be compared at all."""
    if len(gold) > answer_expressions.MAX_CHARACTERS:
        return False
    text = tidy(gold)
    if not is_whole(text) or gold.strip() in MISSING:
        return False
    return _has_form(text) or bool(answer_expressions.parsed(text))


MISSING = {"nan", "NaN", "None", "null", "N/A", "n/a"}
"""Texts that programs write for a missing answer."""


def is_mathematics(answer: str) -> bool:
    """Returns whether an answer is read as mathematics, not just as text."""
    if len(answer) > answer_expressions.MAX_CHARACTERS:
        return False
    text = tidy(answer)
    return _has_form(text) or bool(answer_expressions.expressions(text))


def _has_form(text: str) -> bool:
    measure = read_measure(text, bare_letters=True)
    return measure.number() is not None or bool(read_time(text) or read_based(text))


Same = Callable[[str, str], bool]
"""Function that tells whether a part of the answer equals a part of the gold answer."""

MAX_DEPTH = 12
"""Maximum depth of parts within parts for which rules are asked: a hostile text has thousands."""


def _same(answer: str, gold: str, depth: int = 0) -> bool:
    if squeezed(answer) == squeezed(gold) or _letters(answer) == _letters(gold):
        return True
    if not answer or not gold:
        return False
    same = partial(_same, depth=depth + 1)
    for rule in RULES if depth < MAX_DEPTH else ():
        equal = rule(answer, gold, same)
        if equal is not None:
            return equal
    return answer_expressions.is_equal(answer, gold)


def _letters(text: str) -> str:
    return squeezed(unmarked(text))


LABEL = re.compile(r"(?:\\text\{ ?\(?([A-E])\) ?\}|\(([A-E])\)|([A-E])[.:)])[ .:]*(?=[^ .:,;])")


def _labels(answer: str, gold: str, same: Same) -> bool | None:
    r"""Compares an answer that has a letter, `\text{(C)} 18`; the gold answer is either part."""
    label = LABEL.match(answer)
    if label is None:
        return None
    rest = answer[label.end() :].strip()
    letter = _letters(gold).strip("()")
    if len(letter) == 1 and letter.isupper():
        told = label[1] or label[2] or label[3]
        return told == letter and not LABEL.search(f"{rest} ") and len(separated(answer)) == 1
    return same(rest, gold)


def _numbers(answer: str, gold: str, same: Same) -> bool | None:
    given, expected = read_number(answer), read_number(gold)
    return None if given is None or expected is None else given.equals(expected)


def _bases(answer: str, gold: str, same: Same) -> bool | None:
    """Compares digits in a base; an answer without a base is read in that of the gold answer."""
    given, expected = read_based(answer), read_based(gold)
    if expected is not None:
        digits = re.sub("[ ,]", "", answer).lstrip("0").upper()
        return given == expected if given is not None else digits == expected.digits
    if given is not None and read_number(gold) is not None:
        return given.base == 10 and same(given.digits, gold)
    return None


def _measures(answer: str, gold: str, same: Same) -> bool | None:
    """Compares values with units; one of the two may omit its unit, since the question names it."""
    expected = read_measure(gold, bare_letters=False)
    given = read_measure(answer, bare_letters=not variables(expected.value))
    one, other = given.number(), expected.number()
    if (given.value, expected.value) == (answer, gold):  # neither has a unit
        return None
    if (one is None and len(separated(answer)) > 1) or (other is None and len(separated(gold)) > 1):
        return None  # each part of a list has its own unit
    if conflict(given, expected):
        return _converted(given, expected)
    if one is None or other is None:
        same_sign = given.percent <= expected.percent  # 204 % is not 204
        return same_sign and same(given.value, expected.value)
    if given.percent == expected.percent:
        return one.equals(other)
    if given.percent:
        return _percent(one).equals(other)
    return one.equals(other) or one.equals(_percent(other))  # the question may ask `what percent`


def _converted(given: Measure, expected: Measure) -> bool:
    """Compares numbers in different known units, `1 hour` and `60 minutes`."""
    one, other = given.number(), expected.number()
    steps = steps_between(given.unit or "", expected.unit or "")
    if one is None or other is None or steps is None:
        return False
    return one.value * steps == other.value


def _percent(number: Number) -> Number:
    places = None if number.places is None else number.places + 2
    return Number(number.value / 100, places)


RULES: tuple[Callable[[str, str, Same], bool | None], ...] = (
    _labels,
    _numbers,
    _bases,
    lambda answer, gold, _: compare_times(answer, gold),
    compare_intervals,
    lambda answer, gold, _: compare_sequences(answer, gold),
    lambda answer, gold, _: compare_listed_words(answer, gold),
    lambda answer, gold, _: compare_words(answer, gold),
    lambda answer, gold, _: compare_compounds(answer, gold),
    _measures,
    compare_matrices,
    compare_named,
    compare_collections,
)
"""The rules, the most certain one first."""
