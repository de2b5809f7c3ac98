"""Ordinary rewritings of a gold answer: other forms that are right.

A gold answer has a kind (`integer`, `interval`, ...), and each kind its own ways of being written
otherwise. Nothing of the package is used: what is measured must not say what is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from answer_plain_forms import (
    Forms,
    a_decimal,
    a_fraction,
    a_scientific,
    a_sum,
    base,
    date,
    degrees,
    integer,
    money,
    option,
    percent,
    ratio,
    text,
    time,
    unit,
)

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
    yield rf"\text{{The answer is }} {gold}"
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
    if kind in NUMBERS:
        yield f"m + n = {gold}"
    if kind in (*NUMBERS, *SUMS, "power"):
        yield f"{{{gold}}}"
        yield f"({gold})"
    if kind in ("list", "tuple", "tuples", "set", "interval"):
        yield re.sub(r", *", r",\\, ", gold)
        yield re.sub(r", *", ",", gold)


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
    yield r"\begin{pmatrix} " + r" \\ ".join(parts) + r" \end{pmatrix}"
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
    yield from (f"{left} = {form}" for form in list(a_sum(right))[:1])


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
    **{"integer": integer, "grouped": integer, "decimal": a_decimal, "fraction": a_fraction},
    **{"mixed": a_fraction, "scientific": a_scientific, "radical": a_sum, "constant": a_sum},
    **{"power": a_sum, "degrees": degrees, "percent": percent, "money": money, "unit": unit},
    **{"text": text, "option": option, "date": date, "time": time, "ratio": ratio},
    **{"base": base, "interval": _interval, "union": _union, "inequality": _inequality},
    **{"set": _set, "list": _a_list, "tuple": _tuple, "tuples": _tuples, "line": _line},
    **{"assignment": _assignment, "assignments": _assignments, "expression": a_sum},
    **{"function": a_sum, "equation": _equation, "complex": a_sum, "matrix": _matrix},
}
