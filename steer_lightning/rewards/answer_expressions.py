"""The comparison of expressions by math-verify (sympy), if `answer_forms` does not decide.

It has no deadline and may take forever on a hostile text, so call it in a worker of the pool.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

# a longer text is not an answer, and parsing it would only use up the deadline
MAX_CHARACTERS = 5000

THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")

PRODUCT = re.compile(r"((?<![\w^.])\d+(?:\.\d+)?(?= ?\([-\d])|\)(?= ?[\d(]))")

TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
DEGREES = re.compile(
    r"(\\frac ?\{[^{}]*\} ?\{[^{}]*\}|\d+(?:\.\d+)?|\\?[A-Za-z]+|\([^()]*\))"
    r" ?\^ ?\\circ(?![a-zA-Z])"
)
"""Degrees, which math-verify would drop: the sine of 30 degrees is not that of 30 radians."""

RELATIVE = 1e-6
"""Numbers whose difference is a larger share than this of the larger one differ, however small they
are."""


@lru_cache(maxsize=4096)  # a gold answer is compared with every completion of its group
def parsed(answer: str) -> tuple[Any, ...]:
    """Returns what math-verify reads in a tidy answer: sympy's expressions, and the text itself."""
    if len(answer) > MAX_CHARACTERS:
        return ()
    # it imports sympy, which takes a second that other commands should not have to wait
    from math_verify import LatexExtractionConfig, parse
    from math_verify.parser import NormalizationConfig

    # its own time-outs use signals, which fail outside the main thread; the reward pool has a
    # deadline
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn about exactly that
    # LaTeX only: otherwise text that is not LaTeX would be searched for a number, so that 9**9 is
    # 9, and its arithmetic passed to Python's eval. Units are the task of `answer_units`: the units
    # of math-verify include the letter t, so that 3t would be 3
    steps = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    latex = LatexExtractionConfig(normalization_config=steps, boxed_match_priority=-1)
    text = THOUSANDS.sub(lambda found: found.group().replace(",", ""), answer)
    # otherwise 2i would not be a complex number
    text = re.sub(r"(?<=\d) ?i(?![a-zA-Z])", " i", text)
    if TRIGONOMETRY.search(text):
        text = DEGREES.sub(r"\\frac{\1 \\pi}{180}", text)
    text = PRODUCT.sub(r"\1 \\cdot ", text)  # 2(5) would be a mixed number, 2 + 5
    text = f"${text}$".replace("\n", " ")
    return tuple(parse(text, extraction_config=[latex], parsing_timeout=None))


def expressions(answer: str) -> list[Any]:
    """Returns the parts of `parsed` that are mathematics."""
    return [part for part in parsed(answer) if not isinstance(part, str)]


NAME = re.compile(r"\\(?:text|operatorname|mathbb|begin|end) ?\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
SPARE = "qwzkvujhgbnmpfaxycltsro"
"""Letters that may stand for a capital letter."""


MARKED = re.compile(r"(\\[A-Za-z]+|[A-Za-df-z])('+| ?\^ ?(?:\{ ?T ?\}|T))")
"""A derivative, another point, a transposed matrix."""


def with_names_apart(*texts: str) -> list[str]:
    """Renames letters that math-verify would mistake for others.

    These are letters that differ only by case, such as R and r, and letters with a mark that
    math-verify would drop, such as `f'` and `A^T`.
    """
    names = {name for text in texts for name in NAME.findall(text)}
    spare = iter(letter for letter in SPARE if not names & {letter, letter.upper()})
    marked = sorted({_mark(found) for text in texts for found in MARKED.finditer(text)})
    others = dict(zip(marked, spare, strict=False))
    texts = tuple(MARKED.sub(lambda x: f" {others.get(_mark(x), x[0])} ", text) for text in texts)
    return _with_cases_apart(*texts)


def _mark(found: re.Match[str]) -> str:
    return found[1] + re.sub(r"[ {}]", "", found[2])


def _with_cases_apart(*texts: str) -> list[str]:
    names = {name for text in texts for name in NAME.findall(text)}
    spare = iter(letter for letter in SPARE if not names & {letter, letter.upper()})
    clashes = sorted(name for name in names if name != name.lower() and name.lower() in names)
    others = dict(zip(clashes, spare, strict=False))
    return [NAME.sub(lambda found: others.get(found.group(), found.group()), x) for x in texts]


def is_equal(answer: str, gold: str) -> bool:
    """Returns whether two tidy texts are the same expression."""
    from math_verify import verify

    if _is_equation(answer) != _is_equation(gold):
        return False  # math-verify would drop the left side of an equation
    answer, gold = with_names_apart(answer, gold)
    # if it can't compare them, it raises an exception; that is not a wrong answer
    equal = verify(
        list(parsed(gold)), list(parsed(answer)), timeout_seconds=None, raise_on_error=True
    )
    return not _differ(answer, gold) if equal else _proportional(answer, gold)


def _is_equation(text: str) -> bool:
    return "=" in re.sub(r"\{[^{}]*\}|\([^()]*\)", "", text)


def _proportional(answer: str, gold: str) -> bool:
    """Returns whether one equation is a multiple of the other, as 2x + 2y = 10 is of x + y = 5."""
    from sympy import Eq, simplify

    sides = [part for text in (answer, gold) for part in expressions(text)]
    if len(sides) != 2 or not all(isinstance(part, Eq) for part in sides):
        return False
    given, expected = (part.lhs - part.rhs for part in sides)
    ratio = simplify(given / expected) if expected != 0 else None
    return ratio is not None and ratio.is_number and ratio.is_finite and ratio != 0


def _differ(answer: str, gold: str) -> bool:
    """Returns whether two numbers are equal for math-verify only because both are tiny."""
    values = [_value(text) for text in (answer, gold)]
    if None in values:
        return False
    one, other = values
    return bool(abs(one - other) > RELATIVE * max(abs(one), abs(other)))


def _value(text: str) -> Any:
    """Returns the value of a number in floating point; None for an expression with variables."""
    found = expressions(text)
    if len(found) != 1 or not getattr(found[0], "is_number", False):
        return None
    if found[0].is_zero:
        return 0  # evalf would turn 5 - 5 into 1e-137
    value = found[0].evalf(20)
    return value if value.is_Number or value.is_complex else None
