r"""The search for the answer in a text: in a box, as the last number, or as the whole text.

Every search is a single pass, so that a text of a megabyte takes no longer than necessary.
"""

from __future__ import annotations

import re
from typing import Literal

from steer_lightning.rewards.answer_text import without_lead

AnswerIn = Literal["boxed", "boxed_or_last_number", "last_number"]

BOX = r"\\(?:boxed|fbox|framebox)"
BRACE = re.compile(rf"{BOX}\s{{0,4}}\{{|\\\\(?=[{{}}])|\\[{{}}]|[{{}}]")
BETWEEN = re.compile(
    r"(?:[\s$,;.]|\\[()\[\],; ]|\\quad|\\text ?\{ ?(?:and|or) ?\}|and|or){0,12}"
    r"(?P<name>[a-zA-Z](?:_\w)? ?= ?)?"
)
"""Text that may stand between two boxes that form one answer, such as `and`, or `and $y = `."""

NAME_BEFORE = re.compile(r"[a-zA-Z](?:_\w)? ?= ?$")
SEPARATOR = re.compile("[,;]|and|or")

UNBRACED = re.compile(
    BOX + r"(?![a-zA-Z]) ?"
    r"([-+]?(?:\\(?:[dt]?frac|sqrt|pi|text|infty)|\.?\d|[a-zA-Z](?![a-zA-Z]))[^$\n]{0,200})"
)
"""TeX would box only the next sign; authors of solutions mean everything up to the end of the
formula."""

UNBRACED_END = re.compile(r"\\[)\]]|[.,;:!?](?:\s|$)|\s(?:and|is|so|which)\s")

SPACE = "[ \u00a0\u2009\u202f]"
DIGITS = rf"(?:\d{{1,3}}(?:(?:,|\\,|\{{,\}}|,\\!|{SPACE})\d{{3}})+(?!\d)|\d+)"
BRACED = r"\{(?:[^{}\n]|\{[^{}\n]{0,20}\}){1,30}\}"
EXPONENT = r"(?:\{[-+\u2212]?\d+\}|[-+\u2212]?\d+)"
MINUS = "[-\u2212\u2013]"
DOLLARS = r"(?:(?:\\?\$|[€£])\ ?(?=[\d.]))"
MONEY = r"(?:(?:\\\$|[€£])\ ?(?=[\d.]))"
LAST_NUMBER = re.compile(
    rf"""
    (?<![\^_]\{{)(?<![\^_])
    (?:(?<![\w)}}\]\u2212\u2013-]){MINUS}               # a sign, unless it is a minus or a hyphen
      |(?<![$\w)}}\]\u2212\u2013-]){MINUS}{DOLLARS}       # -$5, but not the hyphen of $3$-$5$
      |(?<![\w)}}\]]\$)(?<=\$){MINUS}{MONEY}               # $-\$5$, the first $ being TeX's
      |(?:(?<==)|(?<==\ )|(?<=\()){MINUS}[ ]{DOLLARS}?)?  # x = - 5
    (?<![\^_/\d])(?<![\^_]\{{)(?<![\^_]\{{-)(?<![\^_]-)  # no exponent, index or denominator
    (?:
        \\[dtc]?frac(?:\d|{BRACED})[ ]?(?:\d|{BRACED})
      | \d+[ ]\d+/\d+                                   # 1 1/2
      | (?<!\d,)(?!\d{{1,3}}(?:,\d{{3}})+(?!\d))\d+,\d+(?![,\d])  # 1,5: a decimal or a list
      | (?:{DIGITS}(?:\.\d+)?|(?<![\w.])\.\d+)
        (?:
            [eE][-+]?\d+(?!\w)
          | [ ]?(?:\\times|\\cdot|[\u00d7*x])[ ]?10[ ]?\^{EXPONENT}
          | \^{EXPONENT}
          | [\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+ # 10 to the power of raised digits
          | [ ]?/[ ]?\d+
          | :\d\d(?!\d)                                 # a time
          | [ ]?\\(?:sqrt[ ]?(?:\d|{BRACED})|pi(?![a-z]))
        )?
      | \\sqrt[ ]?(?:\d|{BRACED})
    )
    """,
    re.VERBOSE,
)


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last closed `\boxed{...}`; None if there is none."""
    boxes = _boxes(text)
    return boxes[-1][0].strip() if boxes else None


def boxed_answer(text: str) -> str | None:
    r"""Returns the last boxed answer; None if there is none.

    Two boxes with only `and` or the like between them are one answer: `\boxed{1} and \boxed{-2}`.
    `\boxed 2` is read up to the end of its formula.
    """
    boxes = _boxes(text)
    unbraced = _last(UNBRACED, text)
    if unbraced is not None and (not boxes or boxes[-1][1] < unbraced.start()):
        content = unbraced[1]
        stop = UNBRACED_END.search(content)
        return content[: stop.start() if stop else None].strip()
    if not boxes:
        return None
    content, start, end = boxes[-1]
    first = start
    for _, before, its_end in reversed(boxes[:-1]):
        between = BETWEEN.fullmatch(text[its_end:first])
        if between is None or not SEPARATOR.search(between.group()):
            break
        first = before
        name = NAME_BEFORE.search(text[max(0, first - 8) : first]) if between["name"] else None
        first -= len(name.group()) if name else 0
    return content.strip() if first == start else text[first:end]


def _boxes(text: str) -> list[tuple[str, int, int]]:
    """Returns the content, start and end of each innermost closed box, in order.

    It keeps a stack, so a text of nothing but unclosed boxes takes no longer than any other.
    """
    opened: list[tuple[int, int, bool]] = []
    found: list[tuple[str, int, int]] = []
    for brace in BRACE.finditer(text):
        sign = brace.group()
        if sign == "{" or len(sign) > 2:
            opened.append((brace.start(), brace.end(), sign != "{"))
        elif sign == "}" and opened:
            start, inner, is_box = opened.pop()
            if is_box and not (found and start < found[-1][1]):
                found.append((text[inner : brace.start()], start, brace.end()))
    return found


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Returns the last match, without keeping the others."""
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def find_answer(text: str, answer_in: AnswerIn = "boxed") -> str | None:
    """Finds the final answer, which is a part of the completion.

    Args:
        text: A completion.
        answer_in: Where to look: in the last box; in the last box or else at the last number; or
            only at the last number.

    Returns:
        Answer, or None if there is none.
    """
    answer = boxed_answer(text) if answer_in != "last_number" else None
    if answer is None and answer_in != "boxed":
        number = _last(LAST_NUMBER, text)
        answer = None if number is None else number.group()
    return answer or None


def gold_answer(text: str) -> str | None:
    """Returns the answer that a data source gives; None for a solution without an answer.

    Args:
        text: The answer itself, `The answer is 7`, an answer after `####`, or a solution with a
            box.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return None if _are_ambiguous(_boxes(text)[-2:], text) else boxed or None
    text = without_lead(text.rpartition("####")[2].strip())
    return None if re.search(BOX, text) or is_prose(text) else text or None


def _are_ambiguous(boxes: list[tuple[str, int, int]], text: str) -> bool:
    """Returns whether two different boxes follow each other without a word in between."""
    if len(boxes) < 2:
        return False
    (one, _, end), (other, start, _) = boxes
    return one.strip() != other.strip() and not text[end:start].strip(" \n$")


def is_prose(text: str) -> bool:
    """Returns whether a text is mathematics in sentences, whose answer can't be identified."""
    if len(text) > MAX_GOLD:
        return True
    if re.search(r"[\d$\\=]", text) is None:
        return False
    plain = NO_WORDS.sub(" ", text)
    return LABELLED.search(plain) is not None or any(
        word.lower() in SENTENCES for word in WORD.findall(plain)
    )


NO_WORDS = re.compile(r"\\text ?\{[^{}]*\}|\\[a-zA-Z]+(?:\{[a-zA-Z]*\})?")
WORD = re.compile(r"[A-Za-z]{2,}")
LABELLED = re.compile(r"[A-Za-z]{3,} ?:")
SENTENCES = {
    *("is", "are", "so", "we", "have", "has", "get", "gives", "yields", "equals", "costs", "note"),
    *("thus", "hence", "then", "therefore", "since", "find", "because", "let", "answer"),
}
"""Words that occur in sentences, but not in answers with numbers."""

MAX_GOLD = 2000
"""Maximum number of characters of a text that is an answer by itself."""
