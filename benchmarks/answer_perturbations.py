"""Perturbations of a gold answer: forms that look like it and are wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from answer_plain_forms import Forms, powers, terms, value_of
from answer_rewritings import inner, parts_of, unlike


def perturbations(kind: str, gold: str) -> list[str]:
    """Wrong forms."""
    return unlike(gold, list(WRONG[kind](gold)))


def _wrong_number(gold: str) -> Forms:
    value = value_of(gold)
    whole = value.denominator == 1 and abs(value) < 10**8
    shift = Fraction(1) if whole else abs(value) / 10
    for other in (
        value + shift,
        value - shift,
        -value,
        10 * value,
        value / 10,
        value + 1000 * shift,
    ):
        if other != value:
            yield f"{other}" if whole or other.denominator < 10**6 else f"{float(other):.4e}"
    if value:
        yield rf"\frac{{{value.denominator}}}{{{abs(value.numerator)}}}" if abs(value) != 1 else "2"
        yield from (rf"{gold}\%", f"{gold} million", f"{gold} x", rf"{gold}\pi", f"{gold} + 1")
        yield from (f"{gold}, 83.5", rf"({gold}, 5)", rf"{gold} \text{{ or }} 3.5")
    if whole and value > 2:
        n = int(value)
        yield from (f"{n}!", f"{n}^2", rf"\sqrt{{{n}}}", f"{n}.1", f"{n} squared", f"{n}_7")
        yield from (f"{n} tenths", f"{n} out of {n + 1}", f"{n} feet 6 inches", f"{n} choose 2")
        yield from (f"2x = {n}", f"x^2 = {n}", f"x - 3 = {n}", f"{n + 1} = {n}")
        yield f"{n}:00" if n < 13 else f"{n}e1"
        swapped = str(n)[::-1].lstrip("0")
        if swapped != str(n):
            yield swapped


def _wrong_scientific(gold: str) -> Forms:
    value = value_of(gold)
    for factor in (Fraction(10), Fraction(1, 10), Fraction(101, 100), Fraction(-1), 1 / value**2):
        yield from list(powers(value * factor))[:2]
    yield from ("0", rf"{gold}\%", f"{gold} x")


def _wrong_sum(gold: str) -> Forms:
    parts = terms(gold)
    if len(parts) > 1:
        last = parts[-1]
        yield " ".join([*parts[:-1], ("+" if last[0] == "-" else "-") + last.lstrip("+-")])
        yield " ".join(parts[:-1])
    yield from (f"2({gold})", f"{gold} + 1", f"-({gold})", f"({gold})^2", rf"\frac{{{gold}}}{{3}}")
    yield from (f"{gold}, 1", rf"{gold}\%")
    if r"^\circ" in gold:
        yield gold.replace(r"^\circ", "")
    if re.search(r" ?hr$|mg$|'", gold):  # neither hours nor milligrams, and a mark counts
        yield re.sub(r" ?hr$|mg$|'", "", gold)
    number = re.search(r"(?<![\d_])\d+(?!\d)", gold)
    if number:
        yield f"{gold[: number.start()]}{int(number.group()) + 1}{gold[number.end() :]}"
    letter = re.search(r"(?<![a-zA-Z\\{])[a-df-hj-z](?![a-zA-Z])", gold)
    if letter:
        other = next(one for one in "wvzus" if one not in gold)
        yield re.sub(rf"(?<![a-zA-Z\\]){letter.group()}(?![a-zA-Z])", other, gold)
        yield re.sub(rf"(?<![a-zA-Z\\]){letter.group()}(?![a-zA-Z])", "1", gold)
        if re.fullmatch(r"\d+[a-z]", gold):
            yield gold[:-1]


def _wrong_unit(gold: str) -> Forms:
    number = re.match(r"(?:\\\$)?([\d.]+|\\frac\{\d+)", gold)
    digits = re.search(r"\d+", gold)
    if number is None or digits is None:
        return
    other = f"{gold[: digits.start()]}{int(digits.group()) + 1}{gold[digits.end() :]}"
    yield from (other, f"-{gold}", f"2{gold}" if gold[0].isdigit() else f"{gold}2")
    if gold[0].isdigit():
        bare = number.group().rstrip(".")
        units = {"kg": "g", "cents": "dollars", "cm": "cm", "mph": "feet", "circ": "radians"}
        for unit, wrong in units.items():
            if unit in gold and "^2" not in gold and unit != wrong and "sqrt" not in gold:
                yield from (f"{bare} {wrong}", rf"{bare}\text{{ {wrong}}}")
        if "percent" not in gold and r"\%" not in gold:
            yield rf"{bare}\%"
        yield from (f"{bare} tenths", f"{bare} feet 6 inches", f"{bare} out of 997")
        yield from (f"1{bare}", f"{bare}, 1", rf"{bare}\pi \pi")


def _wrong_words(gold: str) -> Forms:
    yield from (r"\text{Zoe}", "Zoe", r"\text{green}", "5", "z", rf"\text{{not }} {gold}", "(Z)")
    yield from (
        rf"{gold}, \text{{Zoe}}",
        gold.replace("{", "{un", 1) if "{" in gold else f"un{gold}",
    )
    word = re.search("[A-Za-z]+(?=[^A-Za-z]*$)", gold)
    if word is not None and len(set(word.group())) > 1:
        letters = word.group()[1:] + word.group()[0]
        yield f"{gold[: word.start()]}{letters}{gold[word.end() :]}"


def _wrong_date(gold: str) -> Forms:
    month, day = re.search(r"([A-Z][a-z]+) (\d+)", gold).groups()  # type: ignore[union-attr]
    yield from (
        rf"\text{{{month} {int(day) - 1}}}",
        f"August {day}",
        month,
        day,
        f"{int(day) - 1} {month}",
    )


def _wrong_time(gold: str) -> Forms:
    hour, minute = (int(x) for x in re.search(r"(\d+)\D+(\d\d)", gold).groups())  # type: ignore[union-attr]
    yield from (f"{hour % 12 + 1}:{minute:02d}", f"{hour}:{(minute + 10) % 60:02d}", "5", f"{hour}")
    if re.search("[mM]", gold):
        yield f"{hour}:{minute:02d} {'PM' if re.search('[aA].?[mM]', gold) else 'AM'}"


def _wrong_ratio(gold: str) -> Forms:
    parts = [int(part) for part in gold.split(":")]
    yield from (":".join(map(str, parts[::-1])), f"{parts[0]}:{parts[1] + 1}", str(parts[0]))
    yield from (f"{gold}:7", f"({parts[0]}, {parts[1]})")


def _wrong_base(gold: str) -> Forms:
    digits, base = re.fullmatch(r"(\w+?)_\{?(\d+)\}?", gold).groups()  # type: ignore[union-attr]
    yield from (
        f"{digits}_{{{int(base) + 1}}}",
        f"{digits}0_{{{base}}}",
        str(int(digits, int(base))),
    )
    yield from (
        f"{digits[:-1]}1_{base}" if digits[-1] != "1" else f"{digits}1_{base}",
        rf"{digits}\%",
    )


def _wrong_interval(gold: str) -> Forms:
    start, (low, high), end = inner(gold.removeprefix(r"x \in "))
    flip = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if r"\infty" not in low:
        yield f"{flip[start]}{low},{high}{end}"
        yield from (rf"{start}{low}+1,{high}{end}", rf"(-\infty,{high}{end}", low)
    if r"\infty" not in high:
        yield from (f"{start}{low},{high}{flip[end]}", f"{start}{low},2{high}{end}", high)
        yield rf"{start}{low},\infty)"
    if r"\infty" not in low + high:
        yield rf"\{{{low},{high}\}}"
        sign = r"\le" if start == "(" else "<"
        yield " ".join((low, sign, "x", "<" if end == ")" else r"\le", high))
    yield rf"{gold} \cup (100,101)"


def _wrong_union(gold: str) -> Forms:
    parts = [part.strip() for part in gold.split(r"\cup")]
    yield from (*parts, r" \cap ".join(parts))
    for part in parts:
        for other in list(_wrong_interval(part))[:3]:
            yield gold.replace(part, other)


def _wrong_inequality(gold: str) -> Forms:
    words = gold.split()
    closed = {"<": r"\le", ">": r"\ge", r"\leq": "<", r"\geq": ">", r"\le": "<"}
    turned = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq", r"\le": r"\ge"}
    for table in (closed, turned):
        yield (
            " ".join([words[0], table[words[1]], *words[2:]])
            if len(words) == 3
            else " ".join(
                [*words[:3], table[words[3]], *words[4:]] if table is closed else words[::-1]
            )
        )
    yield from (f"{gold}1", gold.replace("x", "-x") if "x" in gold else f"{gold}0")


def _wrong_set(gold: str) -> Forms:
    _, parts, _ = inner(gold)
    yield from (rf"\{{{', '.join([*parts, '99'])}\}}", rf"\{{{', '.join([*parts[1:], '99'])}\}}")
    if len(parts) > 1:
        yield from (rf"\{{{', '.join(parts[1:])}\}}", f"({', '.join(parts)})", parts[0])
        yield f"({', '.join(parts[::-1])})"


def _wrong_list(gold: str) -> Forms:
    parts = parts_of(gold)
    yield from (", ".join([*parts, "99"]), ", ".join([*parts[1:], "99"]), f"{gold}, 99")
    if len(parts) > 1:
        yield from (*parts[:2], ", ".join(parts[1:]), " + ".join(parts), f"{gold}, {parts[0]}")
        if sorted(f"-{part}".replace("--", "") for part in parts) != sorted(parts):
            yield ", ".join(f"-{part}".replace("--", "") for part in parts)
    else:
        yield from (gold.replace(r"\pm", "+"), gold.replace(r"\pm", "-"), f"{gold}+1")


def _wrong_tuple(gold: str) -> Forms:
    _, parts, _ = inner(gold)
    if parts != parts[::-1]:
        yield from (f"({', '.join(parts[::-1])})", ", ".join(parts[::-1]))
    yield from (rf"\{{{', '.join(parts)}\}}", f"({', '.join(parts[1:])})", parts[0])
    yield from (f"({', '.join([*parts, '1'])})", f"({', '.join(['77', *parts[1:]])})")
    yield from (f"({', '.join([*parts[:-1], parts[-1] + '+1'])})", f"[{', '.join(parts)}]")


def _wrong_tuples(gold: str) -> Forms:
    parts = parts_of(gold)
    yield from (parts[0], ", ".join([*parts, "(7,7,7)"]), ", ".join([*parts[1:], "(9,9)"]))
    yield ", ".join(f"({','.join(inner(part)[1][::-1])})" for part in parts[:1]) + ", (1,3)"


def _wrong_assignment(gold: str) -> Forms:
    name, value = (part.strip() for part in gold.split("="))
    yield from (f"w = {value}", f"{name} = {value}+1", f"{value}+1", f"{name} = -({value})")
    yield from (f"{name} = {value}, {name} = 77", f"{name} > {value}")


def _wrong_assignments(gold: str) -> Forms:
    parts = parts_of(gold)
    (a, first), (b, second) = (part.split("=") for part in parts)
    yield from (f"{a}={second}, {b}={first}", f"({second}, {first})", parts[0], f"{gold}, c=1")


def _wrong_line(gold: str) -> Forms:
    left, right = (part.strip() for part in gold.split("="))
    yield from (f"{left} = {form}" for form in list(_wrong_sum(right))[:6])
    yield from (f"{right} + 1", f"{left} = -({right})")


def _wrong_equation(gold: str) -> Forms:
    left, right = (part.strip() for part in gold.split("="))
    yield from (f"{left} = {right} + 1", f"{left}=-({right})" if right != "0" else f"{left}=1")
    yield from (left, right, gold.replace("y", "z"), gold.replace("+", "-", 1))


def _wrong_matrix(gold: str) -> Forms:
    cells = gold.removeprefix(r"\begin{pmatrix}").removesuffix(r"\end{pmatrix}")
    rows = [[cell.strip() for cell in row.split("&")] for row in cells.split(r"\\")]
    turned = [list(column) for column in zip(*rows, strict=True)]
    others = [rows[::-1], [["5", *rows[0][1:]], *rows[1:]], [[*row, "0"] for row in rows]]
    others += [turned] if turned != rows else []
    for other in others:
        cells = r" \\ ".join(" & ".join(row) for row in other)
        yield rf"\begin{{pmatrix}} {cells} \end{{pmatrix}}"
    yield from (f"-{gold}", f"2{gold}", rows[0][0])


WRONG: dict[str, Callable[[str], Forms]] = {
    **dict.fromkeys(("integer", "grouped", "decimal", "fraction", "mixed"), _wrong_number),
    **dict.fromkeys(
        ("radical", "constant", "power", "expression", "function", "complex"), _wrong_sum
    ),
    **dict.fromkeys(("degrees", "percent", "money", "unit"), _wrong_unit),
    **dict.fromkeys(("text", "option"), _wrong_words),
    **{"scientific": _wrong_scientific, "date": _wrong_date, "time": _wrong_time},
    **{"ratio": _wrong_ratio, "base": _wrong_base, "interval": _wrong_interval},
    **{"union": _wrong_union, "inequality": _wrong_inequality, "set": _wrong_set},
    **{"list": _wrong_list, "tuple": _wrong_tuple, "tuples": _wrong_tuples, "line": _wrong_line},
    **{"assignment": _wrong_assignment, "assignments": _wrong_assignments},
    **{"equation": _wrong_equation, "matrix": _wrong_matrix},
}
