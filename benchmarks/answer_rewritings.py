"""Ordinary rewritings of a gold answer: other forms that are right.

A gold answer has a kind (`integer`, `interval`, ...), and each kind its own ways of being written
otherwise. Nothing of the package is used: what is measured must not say what is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

Forms = Iterator[str]

NUMBERS = ("integer", "grouped", "decimal", "fraction", "mixed", "scientific")
SUMS = ("radical", "constant", "expression", "function", "complex")
MANY = ("list", "set", "tuples")
LETTERS = ("expression", "function")


def rewritings(kind: str, gold: str) -> list[str]:
    """Right forms, without the gold answer itself."""
    return unlike(gold, [*_everywhere(kind, gold), *RIGHT[kind](gold)])


def unlike(gold: str, forms: list[str]) -> list[str]:
    """Each form once, without the gold answer."""
    return [form for form in dict.fromkeys(forms) if form != gold]


def _everywhere(kind: str, gold: str) -> Forms:
    """Ways of writing that any answer has."""
    yield f"{gold}."
    yield f" {gold} "
    yield f"${gold}$"
    yield rf"\({gold}\)"
    yield rf"\displaystyle {gold}"
    yield gold.replace(r"\frac{", r"\dfrac{").replace(r"\left", "").replace(r"\right", "")
    yield gold.replace("-", "\N{MINUS SIGN}") if "e-" not in gold else gold
    if re.search(r"[([].*,", gold) and r"\left" not in gold and kind not in ("function",):
        yield re.sub(r"([)\]])", r"\\right\1", re.sub(r"([(\[])", r"\\left\1", gold))
    if kind in (
        *NUMBERS,
        "radical",
        "constant",
        "power",
        "degrees",
        "percent",
        "tuple",
        "interval",
    ):
        yield f"= {gold}"
        yield rf"\boldsymbol{{{gold}}}"
        yield rf"{{\bf {gold}}}"
        yield f"x = {gold}"
    if kind in (*NUMBERS, *SUMS, "power"):
        yield f"{{{gold}}}"
        yield f"({gold})"
    if kind in ("list", "tuple", "tuples", "set", "interval"):
        yield re.sub(r", *", r",\\, ", gold)
        yield re.sub(r", *", ",", gold)


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


def _integer(gold: str) -> Forms:
    n = int(value_of(gold))
    yield from (f"{n}.0", f"{n}.00", rf"\text{{{n}}}", rf"\mathbf{{{n}}}", f"n={n}")
    yield from (rf"{n} \text{{ units}}", f"{n} eggs", rf"\frac{{{2 * n}}}{{2}}", f"{2 * n}/2")
    yield from (rf"{n}\text{{ cm}}", f"{n} dollars", f"{n} hours", f"**{n}**", rf"3\cdot x = {n}")
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


def _a_decimal(gold: str) -> Forms:
    value = value_of(gold)
    shown = _decimal(value)
    yield from (f"{shown}0", f"+{shown}" if value > 0 else f"-{str(shown)[1:]}", f"x={shown}")
    yield str(shown).replace("0.", ".", 1) if abs(value) < 1 else f"{shown}00"
    yield from (rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value}")
    yield from (rf"{shown} \text{{ cm}}", f"{shown} meters", rf"{_decimal(100 * value)}\%")


def _a_fraction(gold: str) -> Forms:
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


def _a_scientific(gold: str) -> Forms:
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


def _a_sum(gold: str) -> Forms:
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


def _degrees(gold: str) -> Forms:
    n = re.match(r"[\d.]+", gold)[0]  # type: ignore[index]
    yield from (n, f"{n}\N{DEGREE SIGN}", rf"{n}\degree", rf"{n}^{{\circ}}", f"{n} degrees")
    yield from (rf"{n} \text{{ degrees}}", rf"{n}^\circ", rf"x = {n}^{{\circ}}", f"{n} deg")


def _percent(gold: str) -> Forms:
    n = gold.removesuffix(r"\%")
    yield from (n, f"{n}%", rf"{n} \%", f"{n} percent", rf"{n}\text{{ percent}}")
    yield str(_decimal(Fraction(n) / 100))


def _money(gold: str) -> Forms:
    n = value_of(gold)
    shown = _decimal(n)
    yield from (f"{shown}", f"${shown}", rf"\${shown}", f"{shown} dollars", rf"{float(n):.2f}")
    yield from (rf"{shown} \text{{ dollars}}", rf"\${float(n):,.2f}", rf"\text{{\${shown}}}")


SHORT = {"cm": "centimeters", "inches": "in", "hours": "hr", "feet": "ft", "cents": "cent"}


def _unit(gold: str) -> Forms:
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


def _text(gold: str) -> Forms:
    word = re.sub(r"\\text(?:bf)?\{(.*)\}", r"\1", gold)
    yield from (word, rf"\text{{{word}}}", rf"\textbf{{{word}}}", rf"\mathrm{{{word}}}", f"{word}.")
    yield from (word.lower(), rf"\text{{ {word.lower()} }}", f'"{word}"', f"**{word}**")


def _option(gold: str) -> Forms:
    letter = re.search("[A-E]", gold)[0]  # type: ignore[index]
    yield from (letter, f"({letter})", rf"\text{{{letter}}}", rf"\text{{({letter})}}")
    yield from (rf"\textbf{{({letter})}}", rf"\mathrm{{({letter})}}", rf"\mathbf{{{letter}}}")


def _date(gold: str) -> Forms:
    month, day = re.search(r"([A-Z][a-z]+) (\d+)", gold).groups()  # type: ignore[union-attr]
    yield from (f"{month} {day}", f"{month} {day}th", f"{day} {month}", f"{month[:3]} {day}")
    yield from (rf"\text{{{month}}}\ {day}", rf"\textbf{{{month} {day}}}", f"{month.lower()} {day}")


def _time(gold: str) -> Forms:
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


def _ratio(gold: str) -> Forms:
    parts = [int(part) for part in gold.split(":")]
    yield from (":".join(map(str, parts)), " : ".join(map(str, parts)))
    yield from (":".join(str(2 * part) for part in parts), r"\!:\!".join(map(str, parts)))
    if len(parts) == 2:
        yield from (rf"\frac{{{parts[0]}}}{{{parts[1]}}}", f"{parts[0]} to {parts[1]}")


def _base(gold: str) -> Forms:
    digits, base = re.fullmatch(r"(\w+?)_\{?(\d+)\}?", gold).groups()  # type: ignore[union-attr]
    yield from (f"{digits}_{{{base}}}", rf"({digits})_{{{base}}}", rf"\text{{{digits}}}_{{{base}}}")
    yield from (f"{digits} base {base}", f"{digits} (base {base})", digits)


# ---- several parts


def parts_of(text: str) -> list[str]:
    """The parts between the commas that stand within no brackets."""
    depth, start, found = 0, 0, []
    for n, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            found.append(text[start:n].strip())
            start = n + 1
    return [*found, text[start:].strip()]


def inner(gold: str) -> tuple[str, list[str], str]:
    """Brackets and parts of a set, a tuple or an interval."""
    plain = gold.replace(r"\left", "").replace(r"\right", "")
    found = re.fullmatch(r"(\\\{|[(\[])(.*?)(\\\}|[)\]])", plain)
    assert found, gold
    return found[1], parts_of(found[2]), found[3]


def _a_list(gold: str) -> Forms:
    parts = parts_of(gold)
    if len(parts) == 1:
        both = [gold.replace(r"\pm", sign).strip() for sign in "+-"]
        yield from (", ".join(both), ", ".join(both[::-1]), " and ".join(both))
        yield rf"\{{{both[0]}, {both[1]}\}}"
        return
    yield from (", ".join(parts[::-1]), ", ".join(sorted(parts)), ",".join(parts))
    yield rf"{', '.join(parts[:-1])} \text{{ and }} {parts[-1]}"
    yield f"{', '.join(parts[:-1])} and {parts[-1]}"
    yield rf"{', '.join(parts[:-1])} \text{{ or }} {parts[-1]}"
    yield from ("; ".join(parts), rf"\{{{', '.join(parts)}\}}", ", \\quad ".join(parts))
    yield from (
        ", ".join(f"x = {part}" for part in parts),
        " or ".join(f"x={part}" for part in parts),
    )
    yield ", ".join(rf"$x_{n} = {part}$" for n, part in enumerate(parts, 1))


def _tuples(gold: str) -> Forms:
    parts = parts_of(gold)
    yield from (", ".join(parts[::-1]), " and ".join(parts), "; ".join(parts))
    yield from (r" \text{ and } ".join(parts[::-1]), rf"\{{{','.join(parts)}\}}")


def _set(gold: str) -> Forms:
    _, parts, _ = inner(gold)
    yield from (rf"\left\{{{', '.join(parts)}\right\}}", rf"\{{ {', '.join(parts[::-1])} \}}")
    yield from (rf"\lbrace {', '.join(parts)} \rbrace", ", ".join(parts), ", ".join(parts[::-1]))


def _tuple(gold: str) -> Forms:
    _, parts, _ = inner(gold)
    yield from (f"({','.join(parts)})", rf"\left( {', '.join(parts)} \right)", ", ".join(parts))
    yield from (rf"\big({', '.join(parts)}\big)", rf"({',~'.join(parts)})")
    names = "xyzw"[: len(parts)] if len(parts) < 4 else "abcd"
    yield ", ".join(f"{name} = {part}" for name, part in zip(names, parts, strict=True))
    yield rf"({', '.join(names)}) = ({', '.join(parts)})"
    if len(parts) == 2:
        yield rf"x = {parts[0]} \text{{ and }} y = {parts[1]}"


def inequality(gold: str, name: str = "x") -> Forms:
    """An interval as inequalities."""
    start, (low, high), end = inner(gold)
    less = {"(": "<", "[": r"\le"}[start], {")": "<", "]": r"\leq"}[end]
    more = {"<": ">", r"\le": r"\ge", r"\leq": r"\geqslant"}
    if low == r"-\infty":
        yield from (f"{name} {less[1]} {high}", f"{high} {more[less[1]]} {name}")
    elif high == r"\infty":
        yield from (f"{name} {more[less[0]]} {low}", f"{low} {less[0]} {name}")
    else:
        yield f"{low} {less[0]} {name} {less[1]} {high}"
        yield f"{high} {more[less[1]]} {name} {more[less[0]]} {low}"


def _interval(gold: str) -> Forms:
    bare = gold.removeprefix(r"x \in ")
    start, parts, end = inner(bare)
    yield from inequality(bare)
    yield from (
        rf"x \in {bare}",
        rf"x\in{bare}",
        bare,
        rf"\left{start}{parts[0]}, {parts[1]}\right{end}",
    )
    yield bare.replace(r"\infty", "\N{INFINITY}")
    yield rf"\{{x \mid {next(inequality(bare))}\}}"


def _union(gold: str) -> Forms:
    parts = [part.strip() for part in gold.split(r"\cup")]
    yield from (r" \cup ".join(parts[::-1]), "\N{UNION}".join(parts), rf"x \in {gold}")
    yield r" \text{ or } ".join(next(inequality(part)) for part in parts)
    yield " or ".join(next(inequality(part)) for part in parts[::-1])


def _inequality(gold: str) -> Forms:
    for one, other in (
        (r"\leq", r"\le"),
        (r"\geq", r"\ge"),
        (r"\leq", "\u2264"),
        (r"\geq", "\u2265"),
    ):
        yield gold.replace(one, other)
    flipped = {"<": ">", ">": "<", r"\le": r"\ge", r"\leq": r"\geq", r"\geq": r"\leq"}
    yield " ".join(flipped.get(word, word) for word in gold.split()[::-1])
    words = gold.split()
    if len(words) == 3:
        below = words[1] in ("<", r"\leq")
        closed = words[1] in (r"\leq", r"\geq")
        yield (
            rf"(-\infty, {words[2]}{']' if closed else ')'}"
            if below
            else (rf"{'[' if closed else '('}{words[2]}, \infty)")
        )
    else:
        start, end = ("[" if sign == r"\le" else "(" for sign in words[1::2])
        yield f"{start}{words[0]}, {words[4]}{')' if end == '(' else ']'}"


def _assignment(gold: str) -> Forms:
    name, value = (part.strip() for part in gold.split("="))
    yield from (value, f"{name}={value}", f"{name} = {value}", f"${name}={value}$", rf"{value}.")


def _assignments(gold: str) -> Forms:
    parts = parts_of(gold)
    yield from (", ".join(parts[::-1]), r" \text{ and } ".join(parts), "; ".join(parts))
    yield ", ".join(part.replace("=", " = ") for part in parts)
    yield f"({', '.join(part.split('=')[1] for part in parts)})"


def _line(gold: str) -> Forms:
    left, right = (part.strip() for part in gold.split("="))
    yield from (right, f"{left} = {right}", f"{right} = {left}", f"{left}=1 \\cdot ({right})")
    yield from (f"{left} = {form}" for form in list(_a_sum(right))[:1])


def _equation(gold: str) -> Forms:
    left, right = (part.strip() for part in gold.split("="))
    yield from (f"{right}={left}", f"{left}-({right})=0", f"2({left}) = 2({right})")


def _matrix(gold: str) -> Forms:
    for kind in ("bmatrix", "smallmatrix"):
        yield gold.replace("pmatrix", kind)
    cells = gold.removeprefix(r"\begin{pmatrix}").removesuffix(r"\end{pmatrix}")
    yield rf"\left(\begin{{array}}{{cc}}{cells}\end{{array}}\right)"
    yield rf"\left[\begin{{matrix}}{cells}\end{{matrix}}\right]"
    yield from (gold.replace(r" \\ ", "\\\\\n"), gold.replace(r" \\ ", r"\\[4pt] "))
    yield gold.replace("1/5", r"\frac{1}{5}").replace(r"\frac{1}{2}", "0.5")


RIGHT: dict[str, Callable[[str], Forms]] = {
    **{"integer": _integer, "grouped": _integer, "decimal": _a_decimal, "fraction": _a_fraction},
    **{"mixed": _a_fraction, "scientific": _a_scientific, "radical": _a_sum, "constant": _a_sum},
    **{"power": _a_sum, "degrees": _degrees, "percent": _percent, "money": _money, "unit": _unit},
    **{"text": _text, "option": _option, "date": _date, "time": _time, "ratio": _ratio},
    **{"base": _base, "interval": _interval, "union": _union, "inequality": _inequality},
    **{"set": _set, "list": _a_list, "tuple": _tuple, "tuples": _tuples, "line": _line},
    **{"assignment": _assignment, "assignments": _assignments, "expression": _a_sum},
    **{"function": _a_sum, "equation": _equation, "complex": _a_sum, "matrix": _matrix},
}
