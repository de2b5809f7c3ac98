r"""The reading of what accompanies a value: a per cent sign, a currency, a unit, or words.

An answer of `18 eggs` means 18, as the authors of the benchmarks intend: their questions name the
unit, and their gold answers may or may not have one. Two answers with different known units differ.
Words that change the number, as in `7 tenths` or `5 out of 6`, are not units. All texts have been
through `answer_text.tidy`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from steer_lightning.rewards.answer_numbers import MAX_DIGITS, Number, leading_number, read_number

NAMES = {
    **{"mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre"},
    **{"km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard"},
    **{"mi": "mile", "s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": ""},
    **{"month": "", "year": "yr", "mg": "milligram", "g": "gram gm", "kg": "kilogram"},
    **{
        "lb": "lbs pound",
        "oz": "ounce",
        "ml": "mL milliliter",
        "l": "L liter litre",
        "gal": "gallon",
    },
    **{"cent": "", "dollar": "USD", "euro": "EUR", "degree": "deg", "radian": "rad", "mph": ""},
    **{"J": "joule", "N": "newton", "W": "watt", "V": "volt", "Pa": "pascal", "Hz": "hertz"},
    **{"eV": "electronvolt", "K": "kelvin", "C": "celsius", "F": "fahrenheit", "mol": "mole"},
    **{"nm": "nanometer nanometre", "kW": "kilowatt", "kJ": "kilojoule", "acre": "", "A": "ampere"},
    **{"erg": "", "dyne": "", "AU": "", "pc": "parsec", "ms": "millisecond"},
}
"""Names of units, by the short name that stands for all of them."""

KNOWN = {
    form: short
    for short, names in NAMES.items()
    for name in (short, *names.split())
    for form in ({name, f"{name}s", f"{name}es"} if len(name) > 2 else {name})
}

ALIASES = {"mi/h": "mph"}

ANY = {"unit", "units"}
"""Words that stand for any unit."""

POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Words that multiply, with their power of ten."""

NO_UNITS = {
    *("and", "or", "not", "no", "if", "for", "when", "where", "with", "otherwise", "then", "else"),
    *("is", "are", "was", "all", "any", "each", "odd", "even", "than", "at", "least", "most"),
    *("but", "except", "unless", "wrong", "false", "incorrect", "negative", "minus", "plus"),
    *("mod", "modulo", "div", "times", "over", "to", "by", "doubled", "tripled", "multiplied"),
    *("divided", "added", "subtracted", "factorial"),
    *("pi", "sin", "cos", "tan", "cot", "csc", "log", "ln", "exp", "sqrt", "inf", "max", "x"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "twenty", "thirty", "forty", "fifty", "sixty", "infinity"),
    *("dozen", "dozens", "half", "halves", "tens", "lakh", "crore", "mln", "bn", "permille"),
    *SCALES,
    *(f"{scale}s" for scale in SCALES),
}
"""Words that change the meaning of a number, anywhere after it."""

ORDINALS = {
    *("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "twentieth", "hundredth", "thousandth", "millionth", "billionth"),
}
"""Words that divide if they are in the plural and at the end: `7 tenths`, but `5 sixth graders`."""

LAST_WORDS = {
    *ORDINALS,
    *("power", "root", "grand", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "det"),
    *("gcd", "lcm", "abs", "floor", "alpha", "beta", "gamma", "delta", "theta", "lambda"),
    *("sigma", "phi", "omega"),
}
"""Words that are not units by themselves, although a unit may begin with them: `5 grand pianos`."""

COUNTING = NO_UNITS | {f"{ordinal}s" for ordinal in ORDINALS}
UNIT_POWER = re.compile(r"(?:\^ ?\{? ?|(?<=[A-Za-z]))-?\d(?!\d)")

GLUED = {"mm", "cm", "km", "kg", "lb", "oz"}
"""Units of two letters that nobody would read as a product, such as `2mg` and `hr`."""

TEXT_PIECE = re.compile(
    r"(?:\\text\{[^{}]*\}(?: ?\^ ?(?:\{ ?-?\d ?\}|-?\d))?"
    r"|\\frac ?\{ ?\\text\{[^{}]*\} ?\} ?\{ ?\\text\{[^{}]*\}(?:\^ ?\{?\d\}?)? ?\}|/|\\cdot) ?$"
)
WORDS = re.compile(r" ?[A-Za-z][A-Za-z0-9 .'/*^{}-]*$")
KNOWN_TAIL = re.compile(
    r"(?<=[\d})i ]) ?([A-Za-z]{2,}(?: [A-Za-z]{2,})?)(?:\^ ?\{? ?([23]) ?\}?)?$"
)
PERCENT = re.compile(r" ?(?:%|\\text\{ ?(?:percent|per cent|%) ?\}|percent(?:age)?|per cent|pct)$")
DEGREES = re.compile(r" ?\^ ?\\circ ?(?:\\text\{ ?([CF]) ?\}|([CF]))?$")
FUNCTIONS = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
CURRENCY = re.compile(r"^(-?) ?(?:\\\$|US\\\$|USD|€|\\euro|£|\\pounds|¥|Rs\.?) ?(?=[-\d.\\{])")

MAX_WORDS = 60


class Measure(NamedTuple):
    """A value and what accompanies it."""

    value: str
    percent: bool = False
    unit: str | None = None
    """Short name of the unit; None without a unit, and for an unknown unit."""
    scale: int = 0
    """Power of ten from a word such as `million`."""

    def number(self) -> Number | None:
        """Value if it is a number and nothing else, else None."""
        found = read_number(self.value)
        if found is None or not self.scale:
            return found
        return Number(found.value * Fraction(10) ** self.scale, found.places)


def read_measure(text: str, bare_letters: bool) -> Measure:
    """Separates an answer from its unit.

    Args:
        text: Tidy text.
        bare_letters: Whether `18 m` may mean metres; in a gold answer, and if the gold answer has
            letters, it is a product.
    """
    found = PERCENT.search(text)
    if found is not None and found.start():
        return Measure(text[: found.start()].strip(), percent=True)
    found = DEGREES.search(text)
    if found is not None and found.start() and not FUNCTIONS.search(text):
        return Measure(text[: found.start()].strip(), unit=found[1] or found[2] or "degree")
    found = CURRENCY.match(text)
    if found is not None:
        rest = _beside(found[1] + text[found.end() :], bare_letters)
        dollars = "$" in found.group() or "USD" in found.group()
        return rest._replace(unit="dollar" if dollars and rest.unit is None else rest.unit)
    return _beside(text, bare_letters)


def _beside(text: str, bare_letters: bool) -> Measure:
    """Finds the unit after a value."""
    return (
        _of_texts(text)
        or _of_words(text, bare_letters)
        or _of_known(text, bare_letters)
        or Measure(text)
    )


def _of_texts(text: str) -> Measure | None:
    r"""Finds units in `\text{}` at the end."""
    end = len(text)
    for _ in range(6):
        piece = TEXT_PIECE.search(text[:end])
        if piece is None:
            break
        end = piece.start()
    value, tail = text[:end].strip(), text[end:]
    if not tail.startswith(("\\text", "\\frac")) and not tail.startswith("/"):
        return None
    if not re.search(r"\d|\\|^[a-zA-Z]$", value):
        return None
    words = re.sub(r"\\frac ?\{ ?(\\text\{[^{}]*\}) ?\} ?\{(.*)\}", r"\1/\2", tail)
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", words).replace(r"\cdot", " ")
    return _measure(value, words.strip())


def _of_words(text: str, bare_letters: bool) -> Measure | None:
    """Finds words after a plain number."""
    if len(text) > MAX_DIGITS + MAX_WORDS:
        return None
    found = leading_number(text)
    if found is None or not WORDS.fullmatch(found[1]):
        return None
    value, words = text[: len(text) - len(found[1])].strip(), found[1]
    first = re.split(r"[ ./^*]", words.strip())[0]
    if first not in KNOWN and first not in POWERS and (len(first) < 3 or not words.startswith(" ")):
        return None
    plain = words.startswith(" ") and re.fullmatch(r"[\d.,]+", value)
    if not bare_letters and not _is_sure(first) and (len(first) == 1 or not plain):
        return None
    return _measure(value, words.strip())


def _is_sure(word: str) -> bool:
    """Returns whether a word is a unit, not a product of its letters."""
    return len(word) > 2 or word in GLUED


def _of_known(text: str, bare_letters: bool) -> Measure | None:
    """Finds a known unit after any value."""
    found = KNOWN_TAIL.search(text[-MAX_WORDS:])
    if found is None or not (bare_letters or _is_sure(found[1])):
        return None
    unit = short_name(f"{found[1]}^{found[2]}" if found[2] else found[1])
    value = text[: len(text) - len(found.group())].strip()
    if unit is None and found[1] not in ANY and found[1].split()[-1] not in ANY:
        return None
    return Measure(value, unit=unit) if re.search(r"\d|\\", value) else None


def _measure(value: str, words: str) -> Measure | None:
    first, _, rest = words.partition(" ")
    if first in SCALES:
        beside = _measure(value, rest) if rest else Measure(value)
        return beside and beside._replace(scale=SCALES[first])
    if not words or _counts_further(words):
        return None
    return Measure(value, unit=short_name(words))


def _counts_further(words: str) -> bool:
    """Returns whether words change the number before them, by a number, a fraction or a sign."""
    if re.search(r"\d", UNIT_POWER.sub("", words)):
        return True
    told = re.findall(r"[a-z]+(?:-[a-z]+)*", words.lower()) or [""]
    if told == ["times"]:  # says how often; nothing is multiplied
        return False
    if told[0] in ("squared", "cubed") or told[-1] in LAST_WORDS:
        return True
    return not COUNTING.isdisjoint(told)


def short_name(words: str) -> str | None:
    """Returns the short name for any name of a unit, such as `cm^2`; None for an unknown unit."""
    power, parts = 1, []
    spelled = re.sub(r"[{}. ]+", " ", words.replace("^ ", "^")).replace(" per ", "/")
    for word in re.findall(r"[A-Za-z]+(?:\^? ?-?\d)?|/", spelled):
        name, raised = re.fullmatch(r"([A-Za-z]+|/)\^? ?(-?\d)?", word).groups()  # type: ignore[union-attr]
        if name in POWERS:
            power = POWERS[name]
            continue
        if name not in KNOWN and name != "/":
            return None
        power = int(raised) if raised else power
        parts.append(KNOWN.get(name, name) + (f"^{power}" if power != 1 else ""))
        power = 1
    name = "".join(parts)
    return ALIASES.get(name, name) or None


STEPS = {
    **{("week", "day"): 7, ("day", "h"): 24, ("h", "min"): 60, ("min", "s"): 60},
    **{("year", "month"): 12, ("yd", "ft"): 3, ("ft", "in"): 12, ("lb", "oz"): 16},
    **{("dollar", "cent"): 100, ("euro", "cent"): 100, ("km", "m"): 1000, ("m", "cm"): 100},
    **{("cm", "mm"): 10, ("kg", "g"): 1000, ("g", "mg"): 1000, ("l", "ml"): 1000},
}
"""Number of second units in one first unit."""

PIECE = r"(\d+(?:\.\d+)?) ?([A-Za-z]+)"
COMPOUND = re.compile(rf"(?:{PIECE}[.,]?(?: and)?(?: |$)){{2,4}}")


def read_compound(text: str) -> dict[str, Fraction]:
    """Returns the value of `1 hour 30 minutes` in each of its units; empty for any other answer."""
    plain = re.sub(r"\\\$ ?(\d[\d.]*)", r"\1 dollars ", text)
    plain = " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", plain).split()).replace(" ,", ",")
    if len(plain) > MAX_WORDS or not COMPOUND.fullmatch(plain):
        return {}
    total, sizes, last = Fraction(0), dict[str, int](), ""
    for amount, name in re.findall(PIECE, plain):
        unit = KNOWN.get(name, "")
        step = STEPS.get((last, unit)) if sizes else 1
        if step is None:
            return {}
        total = total * step + Fraction(amount)
        sizes = {**{one: size * step for one, size in sizes.items()}, unit: 1}
        last = unit
    return {unit: total / size for unit, size in sizes.items()}


def compare_compounds(answer: str, gold: str) -> bool | None:
    """Compares measures in two or more units; None if neither answer is one."""
    given, expected = read_compound(answer), read_compound(gold)
    if given and expected:
        return any(given[unit] == expected.get(unit) for unit in given)
    if not given and not expected:
        return None
    other = read_measure(gold if given else answer, bare_letters=True)
    number, totals = other.number(), given or expected
    if number is None:
        return None
    return number.value in ([totals.get(other.unit)] if other.unit else totals.values())


def steps_between(first: str, second: str) -> Fraction | None:
    """Returns how many of the second unit are one of the first; None if neither can be told.

    Args:
        first: Short name of a unit.
        second: Short name of another one.
    """
    found, reached = {first: Fraction(1)}, [first]
    both = [(pair, Fraction(size)) for pair, size in STEPS.items()]
    both += [((small, large), 1 / size) for (large, small), size in both]
    for unit in reached:  # which grows
        for (one, other), size in both:
            changes_money = unit == "cent" and unit != first  # dollars are not euros
            if one == unit and other not in found and not changes_money:
                found[other] = found[unit] * size
                reached.append(other)
    return found.get(second)


def conflict(one: Measure, other: Measure) -> bool:
    """Returns whether both units are known and differ."""
    return None not in (one.unit, other.unit) and one.unit != other.unit
