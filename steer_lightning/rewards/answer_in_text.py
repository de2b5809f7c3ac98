r"""The search for the answer in a text: in a box, as the last number, or as the whole text.

Every search is one pass, so that a text of a megabyte costs no more than it must.
"""

from __future__ import annotations

import re
from typing import Literal

AnswerIn = Literal["boxed", "boxed_or_last_number", "last_number"]

BOX = r"\\(?:boxed|fbox|framebox)"
BRACE = re.compile(rf"{BOX} ?\{{|\\\\(?=[{{}}])|\\[{{}}]|[{{}}]")
BETWEEN = re.compile(r"(?:[\s$,;.]|\\[()\[\],; ]|\\quad|\\text ?\{ ?(?:and|or) ?\}|and|or){1,12}")
"""What may stand between two boxes that are one answer together, such as `and`."""

SEPARATOR = re.compile("[,;]|and|or")

UNBRACED = re.compile(
    BOX + r"(?![a-zA-Z]) ?"
    r"([-+]?(?:\\(?:[dt]?frac|sqrt|pi|text|infty)|\.?\d|[a-zA-Z](?![a-zA-Z]))[^$\n]{0,200})"
)
"""TeX would box the next sign alone; authors of solutions mean all up to the end of the formula."""

UNBRACED_END = re.compile(r"\\[)\]]|[.,;:!?](?:\s|$)|\s(?:and|is|so|which)\s")

DIGITS = r"(?:\d{1,3}(?:(?:,|\\,|\{,\}|,\\!)\d{3})+(?!\d)|\d+)"
LAST_NUMBER = re.compile(
    rf"""
    (?:(?<![\w)}}\]\u2212-])[-\u2212])?                 # a sign, unless it is a minus or a hyphen
    (?:
        \\[dtc]?frac\{{-?\d+\}}\{{\d+\}}
      | \d+[ ]\d+/\d+                                   # 1 1/2
      | (?:{DIGITS}(?:\.\d+)?|(?<![\w.])\.\d+)
        (?:
            [eE][-+]?\d+(?!\w)
          | [ ]?(?:\\times|\\cdot|[\u00d7*x])[ ]?10[ ]?\^(?:\{{[-+\u2212]?\d+\}}|[-+]?\d+)
          | /\d+
          | :\d\d(?!\d)                                 # a time
        )?
    )
    """,
    re.VERBOSE,
)


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last closed `\boxed{...}`; None if there is none."""
    boxes = _boxes(text)
    return boxes[-1][0].strip() if boxes else None


def boxed_answer(text: str) -> str | None:
    r"""Returns what is boxed in the end; None if nothing is.

    Two boxes with no more than `and` between them are one answer: `\boxed{1} and \boxed{-2}`.
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
        between = text[its_end:first]
        if not BETWEEN.fullmatch(between) or not SEPARATOR.search(between):
            break
        first = before
    return content.strip() if first == start else text[first:end]


def _boxes(text: str) -> list[tuple[str, int, int]]:
    """Returns the content, start and end of each innermost closed box, in their order.

    A stack is kept: a text of nothing but unclosed boxes costs no more than any other.
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
        answer_in: Where to look: the last `boxed`, or else the last number, or the last number
            alone.

    Returns:
        None if there is none there.
    """
    answer = boxed_answer(text) if answer_in != "last_number" else None
    if answer is None and answer_in != "boxed":
        number = _last(LAST_NUMBER, text)
        answer = None if number is None else number.group()
    return answer or None


def gold_answer(text: str) -> str | None:
    """Returns the answer that a data source gives; None for a solution that shows none.

    Args:
        text: The answer itself, or a solution with a box.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed or None
    return None if is_prose(text) else text.strip() or None


def is_prose(text: str) -> bool:
    """Tells whether a text is mathematics in sentences, so that its answer can't be told apart."""
    if len(text) > MAX_GOLD:
        return True
    words = WORD.findall(NO_WORDS.sub(" ", text))
    told = SENTENCES.intersection(word.lower() for word in words)
    return bool(told) and len(words) >= FEWEST_WORDS and re.search(r"[\d$\\=]", text) is not None


NO_WORDS = re.compile(r"\\text ?\{[^{}]*\}|\\[a-zA-Z]+(?:\{[a-zA-Z]*\})?")
WORD = re.compile(r"[A-Za-z]{2,}")
SENTENCES = {
    *("is", "are", "so", "we", "have", "has", "get", "gives", "note", "thus", "hence", "then"),
    *("therefore", "since", "find", "because", "let", "answer", "solution"),
}
"""Words of which a sentence has one, and an answer none."""

FEWEST_WORDS = 4
"""Fewest words of a sentence; the answer `n is odd` has fewer, and is none."""

MAX_GOLD = 2000
"""Characters beyond which no text is an answer by itself."""
