"""Other right forms of numbers, sums, words, and of what has a sign or a unit beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

Forms = Iterator[str]

# ---- numbers


def value_of(gold: str) -> Fraction:
    """The value of a number in the spellings that the list of gold answers has."""
    text = re.sub(r"\\!|\\,|\{,\}|[, $]|\\\$", "", gold.replace("{,}", ""))
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    found = re.fullmatch(r"(-?)(\d*)\\frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))", text)
    if found:
        sign, whole, a, b, c, d = found.groups()
        value = int(whole or 0) + Fraction(int(a or b), int(c or d))
        return -value if sign else value
    found = re.fullmatch(r"(-?[\d.]*)(?:e|\\times10\^|10\^)\{?(-?\d+)\}?", text)
    if found:
        return Fraction(found[1] or 1) * Fraction(10) ** int(found[2])
    return Fraction(text)


def _decimal(value: Fraction, most: int = 12) -> str | None:
    """A terminating decimal; None if it does not end, or is long."""
    for places in range(most + 1):
        if (value * 10**places).denominator == 1:
            digits = f"{abs(int(value * 10**places)):0{places + 1}d}"
            whole = f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}".rstrip(".")
            return f"-{whole}" if value < 0 else whole
    return None


def integer(gold: str) -> Forms:
    """Writes a whole number in other ways."""
    n = int(value_of(gold))
    yield from (f"{n}.0", f"{n}.00", rf"\text{{{n}}}", rf"\mathbf{{{n}}}", f"n={n}")
    yield from (rf"{n} \text{{ units}}", f"{n} eggs", rf"\frac{{{2 * n}}}{{2}}", f"{2 * n}/2")
    yield from (rf"{n}\text{{ cm}}", f"{n} dollars", f"{n} hours", f"**{n}**")
    if n >= 0:
        yield from (rf"\${n}", f"${n}", rf"{n} \text{{ apples}}", f"{n} boxes of cookies")
    if abs(n) >= 1000:
        for mark in (",", r"\,", "{,}", r",\!", " ", "\u202f"):
            yield f"{n:,}".replace(",", mark)
        yield f"{n:,} people"
    yield from powers(Fraction(n)) if abs(n) >= 1000 else ()


def powers(value: Fraction) -> Forms:
    """In scientific notation."""
    power = len(str(abs(int(value)))) - 1 if abs(value) >= 1 else -len(str(int(1 / abs(value))))
    mantissa = _decimal(value / Fraction(10) ** power)
    if mantissa is None:
        return
    times = (r"\times", r"\cdot", "\N{MULTIPLICATION SIGN}", "*")
    yield from (rf"{mantissa} {sign} 10^{{{power}}}" for sign in times)
    yield from (f"{mantissa}e{power}", f"{mantissa}E{power:+d}", rf"{mantissa}\times10^{power}")
    shifted = _decimal(value / Fraction(10) ** (power - 1))
    yield rf"{shifted} \times 10^{{{power - 1}}}"


def a_decimal(gold: str) -> Forms:
    """Writes a decimal in other ways."""
    value = value_of(gold)
    shown = _decimal(value)
    yield from (f"{shown}0", f"+{shown}" if value > 0 else f"-{str(shown)[1:]}", f"x={shown}")
    yield str(shown).replace("0.", ".", 1) if abs(value) < 1 else f"{shown}00"
    yield from (rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value}")
    yield from (rf"{shown} \text{{ cm}}", f"{shown} meters", rf"{_decimal(100 * value)}\%")


def a_fraction(gold: str) -> Forms:
    """Writes a fraction in other ways."""
    value = value_of(gold)
    a, b = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    yield from (
        f"{sign}{a}/{b}",
        rf"{sign}\tfrac{{{a}}}{{{b}}}",
        rf"{sign}\frac{{{2 * a}}}{{{2 * b}}}",
    )
    yield from (rf"\frac{{{sign}{a}}}{{{b}}}", rf"{sign}\frac {{{a}}} {{{b}}}", f"{sign}{a} / {b}")
    yield from (rf"{sign}\frac{{{a}}}{{{b}}} \text{{ units}}", rf"{sign}{a}/{b} miles")
    yield rf"\text{{{sign}{a}/{b}}}"
    if a < 10 and b < 10:
        yield from (rf"{sign}\frac{a}{b}", rf"{sign}\frac {a} {b}", rf"{sign}\frac{{{a}}}{b}")
    if a > b:
        yield from (rf"{sign}{a // b}\frac{{{a % b}}}{{{b}}}", f"{sign}{a // b} {a % b}/{b}")
    shown = _decimal(value)
    if shown is not None:
        yield from (shown, f"{shown}0")
    else:
        yield f"{float(value):.8f}"
    percent = _decimal(100 * value)
    if percent is not None:
        yield rf"{percent}\%"


def a_scientific(gold: str) -> Forms:
    """Writes a number with a power of ten in other ways."""
    value = value_of(gold)
    yield from powers(value)
    yield from (rf"{form} \mathrm{{~J}}" for form in list(powers(value))[:2])
    shown = _decimal(value)
    if shown is not None:
        yield shown


# ---- sums, with roots and letters


def terms(text: str) -> list[str]:
    """The terms of a sum, each with its sign."""
    depth, start, found = 0, 0, []
    for n, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in "+-" and depth == 0 and n > start and text[n - 1] not in "^{_":
            found.append(text[start:n].strip())
            start = n
    found.append(text[start:].strip())
    return found


def a_sum(gold: str) -> Forms:
    """Writes an expression in other ways."""
    parts = terms(gold)
    if len(parts) > 1 and "=" not in gold and r"\pm" not in gold:
        yield " ".join(part if part[0] in "+-" else f"+{part}" for part in parts[::-1]).lstrip("+")
        yield f"{gold} + 0"
    yield rf"1 \cdot ({gold})"
    if "binom" not in gold:
        yield rf"\frac{{2({gold})}}{{2}}"
    yield re.sub(r"(?<=\d)(?=\\sqrt|\\pi)", r" \\cdot ", gold)
    yield gold.replace(" ", "") if not re.search(r"\\[a-z]+ [a-z]", gold) else gold
    yield (
        gold.replace(r"\sqrt{", "\N{SQUARE ROOT}(").replace("}", ")")
        if gold.startswith(r"\sqrt{") and gold.count("}") == 1
        else gold
    )
    yield gold.replace(r"\pi", "\N{GREEK SMALL LETTER PI}")


# ---- what stands beside a number


def degrees(gold: str) -> Forms:
    """Writes an angle in other ways."""
    n = re.match(r"[\d.]+", gold)[0]  # type: ignore[index]
    yield from (n, f"{n}\N{DEGREE SIGN}", rf"{n}\degree", rf"{n}^{{\circ}}", f"{n} degrees")
    yield from (rf"{n} \text{{ degrees}}", rf"{n}^\circ", rf"x = {n}^{{\circ}}", f"{n} deg")


def percent(gold: str) -> Forms:
    """Writes a percentage in other ways."""
    n = gold.removesuffix(r"\%")
    yield from (n, f"{n}%", rf"{n} \%", f"{n} percent", rf"{n}\text{{ percent}}")
    yield str(_decimal(Fraction(n) / 100))


def money(gold: str) -> Forms:
    """Writes an amount of money in other ways."""
    n = value_of(gold)
    shown = _decimal(n)
    yield from (f"{shown}", f"${shown}", rf"\${shown}", f"{shown} dollars", rf"{float(n):.2f}")
    yield from (rf"{shown} \text{{ dollars}}", rf"\${float(n):,.2f}", rf"\text{{\${shown}}}")


SHORT = {"cm": "centimeters", "inches": "in", "hours": "hr", "feet": "ft", "cents": "cent"}


def unit(gold: str) -> Forms:
    """Writes a value with its unit in other ways."""
    value, unit = re.fullmatch(r"(.*?)((?:\\(?:text|mbox|mathrm)| / ).*)", gold).groups()  # type: ignore[union-attr]
    value = value.strip()
    words = re.sub(r"\\(?:text|mbox|mathrm)|[{}~]", "", unit).strip()
    yield from (
        value,
        f"{value} {words}",
        rf"{value}\,\text{{{words}}}",
        f"{value}.",
        f"x = {value}",
    )
    yield rf"{value}\ \mathrm{{{words}}}"
    if words in SHORT:
        yield from (f"{value} {SHORT[words]}", rf"{value}\text{{ {SHORT[words]}}}")


# ---- words, times, bases


def text(gold: str) -> Forms:
    """Writes words in other ways."""
    word = re.sub(r"\\text(?:bf)?\{(.*)\}", r"\1", gold)
    yield from (word, rf"\text{{{word}}}", rf"\textbf{{{word}}}", rf"\mathrm{{{word}}}", f"{word}.")
    yield from (word.lower(), rf"\text{{ {word.lower()} }}", f'"{word}"', f"**{word}**")


def option(gold: str) -> Forms:
    """Writes the letter of a choice in other ways."""
    letter = re.search("[A-E]", gold)[0]  # type: ignore[index]
    yield from (letter, f"({letter})", rf"\text{{{letter}}}", rf"\text{{({letter})}}")
    yield from (rf"\textbf{{({letter})}}", rf"\mathrm{{({letter})}}", rf"\mathbf{{{letter}}}")


def date(gold: str) -> Forms:
    """Writes a day of the year in other ways."""
    month, day = re.search(r"([A-Z][a-z]+) (\d+)", gold).groups()  # type: ignore[union-attr]
    yield from (f"{month} {day}", f"{month} {day}th", f"{day} {month}", f"{month[:3]} {day}")
    yield from (rf"\text{{{month}}}\ {day}", rf"\textbf{{{month} {day}}}", f"{month.lower()} {day}")


def time(gold: str) -> Forms:
    """Writes a time of day in other ways."""
    hour, minute = re.search(r"(\d+)\D+(\d\d)", gold).groups()  # type: ignore[union-attr]
    half = re.search(r"([apAP])\.?[mM]", gold)
    ends = (
        [f" {half[1]}m", rf"\text{{ {half[1].lower()}.m.}}", f"{half[1].upper()}M"]
        if half
        else [""]
    )
    for end in ends:
        yield from (
            f"{hour}:{minute}{end}",
            f"{hour} : {minute}{end}",
            rf"\text{{{hour}:{minute}}}{end}",
        )


def ratio(gold: str) -> Forms:
    """Writes a ratio in other ways."""
    parts = [int(part) for part in gold.split(":")]
    yield from (":".join(map(str, parts)), " : ".join(map(str, parts)))
    yield from (":".join(str(2 * part) for part in parts), r"\!:\!".join(map(str, parts)))
    if len(parts) == 2:
        yield from (rf"\frac{{{parts[0]}}}{{{parts[1]}}}", f"{parts[0]} to {parts[1]}")


def base(gold: str) -> Forms:
    """Writes digits in another base in other ways."""
    digits, base = re.fullmatch(r"(\w+?)_\{?(\d+)\}?", gold).groups()  # type: ignore[union-attr]
    yield from (f"{digits}_{{{base}}}", rf"({digits})_{{{base}}}", rf"\text{{{digits}}}_{{{base}}}")
    yield from (f"{digits} base {base}", f"{digits} (base {base})", digits)
