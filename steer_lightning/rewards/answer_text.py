r"""The uniform spelling of answers that can be typed in several ways.

`tidy` turns `\left( \dfrac{1}{2},\, 2\,220 \right).` into `( \frac{1}{2}, 2 220 )`. It changes how
an answer is typed, never its meaning: units, names and brackets stay.
"""

# ruff: noqa: RUF001  # this file is about signs that look like others

from __future__ import annotations

import re

CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\t\n\r", " "),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/"},
        **{"∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "±": r"\pm ", "∓": r"\mp "},
        **{"≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx "},
        **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}"},
        **{"°": r"^\circ ", "º": r"^\circ ", "…": r"\ldots ", "∶": ":"},
        **{"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"},
        **{
            sign: rf"\frac{{{above}}}{{{below}}}"
            for signs, aboves, below in (
                *(("⅓⅔", "12", 3), ("⅕⅖⅗⅘", "1234", 5), ("⅙⅚", "15", 6), ("⅛⅜⅝⅞", "1357", 8)),
            )
            for sign, above in zip(signs, aboves, strict=True)
        },
        **{"“": '"', "”": '"', "’": "'", "％": "%", "，": ","},
    }
)
"""Characters that stand for a LaTeX command or for another character."""

RAISED = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
PLAIN_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "-01234567890123456789")

WRAPPERS = re.compile(
    r"\\(?:boxed|fbox|framebox|mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|emph"
    r"|underline|textcolor ?\{\w*\})\s*\{|\\.|[{}]",
    re.DOTALL,
)
"""Commands that change the appearance of their content; and all braces, to find their ends."""

SIZES = "tiny|small|normalsize|large|Large|LARGE|huge|Huge"

COMMAND_END = "(?![a-zA-Z])"

REWRITTEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<![a-zA-Z\\])sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])(pi|sqrt)(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![a-zA-Z\\])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|ln|exp)(?= ?\()", r"\\\1"),
        (r"√ ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√ ?(\d+|[a-z])", r"\\sqrt{\1}"),
        (r"\\\\ ?\[-?[\d.]+ ?(?:pt|em|ex|mm|cm)\]", r"\\\\"),  # the distance between two rows
        (r"(?<!\\)\\[()\[\]]|(?<!\\)\$", ""),  # delimiters of mathematics in a text
        (rf"\\(?:left|right|[bB]igg?[lrm]?){COMMAND_END}\s?(?:\.(?=\s))?", ""),
        (rf"\\(?:display|text|script)style{COMMAND_END}|\\(?:no)?limits{COMMAND_END}", " "),
        (rf"\\(?:bf|rm|it|sf|tt|bfseries|rmfamily|boldmath|{SIZES}){COMMAND_END}", " "),
        (r"(?:\{,\}|,\\!) ?(?=\d{3})", ","),  # a thousands separator without the space after it
        (r"(?<!\\)\\!", ""),
        (r"\\(?:color|hspace|vspace|phantom|hphantom) ?\{[^{}]*\}", " "),
        (rf"(?:(?<!\\)\\[,;:>~ ]|~|\\(?:quad|qquad|thinspace|medspace|enspace){COMMAND_END})", " "),
        (rf"\\[dtc]frac{COMMAND_END}", r"\\frac"),
        (r"\\frac ?(\d) ?(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac ?(\d) ?\{", r"\\frac{\1}{"),
        (r"\\frac ?\{([^{}]*)\} ?(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt ?(\d)(?!\d)", r"\\sqrt{\1}"),
        (rf"\\(?:leq|leqslant|le){COMMAND_END}|<=", r"\\le "),
        (rf"\\(?:geq|geqslant|ge){COMMAND_END}|>=", r"\\ge "),
        (rf"\\(?:lt){COMMAND_END}", "<"),
        (rf"\\(?:gt){COMMAND_END}", ">"),
        (rf"\\(?:neq|ne){COMMAND_END}", r"\\ne "),
        (rf"\\(?:lbrace){COMMAND_END}", r"\\{"),
        (rf"\\(?:rbrace){COMMAND_END}", r"\\}"),
        (rf"\\(?:lbrack){COMMAND_END}", "["),
        (rf"\\(?:rbrack){COMMAND_END}", "]"),
        (rf"\\(?:dots|cdots|dotsc){COMMAND_END}|\.\.\.", r"\\ldots"),
        (r"¢", r"\\text{ cents}"),
        (rf"\\(?:varnothing){COMMAND_END}|\\\{{ ?\\\}}", r"\\emptyset "),
        (rf"\^ ?\\degree{COMMAND_END}|\\degree{COMMAND_END}|\^ ?\{{ ?\\circ ?\}}", r"^\\circ "),
        (r"\\%", "%"),
        (r"\^ ?\{ ?\\prime ?\\prime ?\}", "''"),
        (rf"\^ ?(?:\{{ ?\\prime ?\}}|\\prime{COMMAND_END})", "'"),
        (r"\{ ?([^{}\\]{1,20}?) ?\\choose ?([^{}\\]{1,20}?) ?\}", r"\\binom{\1}{\2}"),
        (r"\\(?:mathrm|operatorname) ?\{ ?([eid]) ?\}", r"\1"),
        (r"\\(?:mathrm|text(?:bf|rm|it|normal|sf|tt)|[mh]box|text) ?\{", r"\\text{"),
        (r"\\text\{((?:[^{}a-zA-Z\\]|\\\$)*)\}", r"\1"),  # a number in a text is a number
        (r"(?<![a-zA-Z\\])infinity(?![a-zA-Z])", r"\\infty"),
        (r"\\text\{[ ,]*(and|or) *\}", r" \1 "),
        (r"\s+", " "),
    )
)
"""Replacements, in this order; each takes time linear in the text."""


THEN = r"(?:so|thus|hence|then|therefore)[ ,]+|\\(?:therefore|Rightarrow|implies)(?![a-zA-Z]) ?"
LEAD = re.compile(
    rf"\A ?(\\text ?\{{)? ?(?=[a-z\\])(?:{THEN})?"
    r"(?:(?:the |our |my )?(?:final |correct )?answer(?: is)?(?![a-z])[ :=]*)?(?(1)(\})?)",
    re.IGNORECASE,
)


def without_lead(text: str) -> str:
    """Removes the words that introduce an answer: `The answer is`, `Answer:`, `Thus`."""
    return LEAD.sub(lambda found: "" if found[2] else found[1] or "", text, count=1)


def tidy(text: str) -> str:
    """Returns an answer in the uniform spelling; not meant for a whole text."""
    text = without_lead(text)
    text = RAISED.sub(lambda found: f"^{{{found.group().translate(PLAIN_DIGITS)}}}", text)
    text = LOWERED.sub(lambda found: f"_{{{found.group().translate(PLAIN_DIGITS)}}}", text)
    text = without_wrappers(text.translate(CHARACTERS))
    for pattern, replacement in REWRITTEN:
        text = pattern.sub(replacement, text)
    return _bare(text)


def squeezed(text: str) -> str:
    """Returns a tidy text without meaningless blanks, to compare it letter by letter."""
    return re.sub(r" (?![a-zA-Z0-9])|(?<![a-zA-Z0-9]) ", "", text)


def unmarked(text: str) -> str:
    r"""Removes the markup of words from a tidy text: `5\text{ cm}` becomes `5 cm`."""
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text)


def without_wrappers(text: str) -> str:
    r"""Turns `\mathbf{18}` and `\boxed{18}` into 18, in one pass for any text."""
    kept: list[str] = []
    opened: list[bool] = []  # whether the closing brace is dropped, too
    end = 0
    for brace in WRAPPERS.finditer(text):
        found = brace.group()
        drop = False
        if found == "}":
            drop = bool(opened) and opened.pop()
        elif found.endswith("{") and found != r"\{":
            drop = found != "{"
            opened.append(drop)
        if drop:
            kept.append(text[end : brace.start()])
            end = brace.end()
    return "".join((*kept, text[end:]))


def is_whole(text: str) -> bool:
    """Returns whether a tidy text is complete: its brackets are closed and its sums end."""
    plain = re.sub(r"\\[^a-zA-Z]", "", text)
    if plain.count("{") != plain.count("}") or text.count(r"\begin") != text.count(r"\end"):
        return False
    if sum(map(plain.count, "([")) != sum(map(plain.count, ")]")):
        return False
    return UNENDED.search(plain) is None and re.search(r"[^\W_]", plain) is not None


UNENDED = re.compile(r"(?<!\^)[-+*/^_=<>] ?$|\\(?:cdot|times|frac|sqrt) ?$")


def _bare(text: str) -> str:
    """Removes signs around an answer: a full stop, an equals sign, stars, braces."""
    while True:
        before = text
        text = text.strip()
        if text.startswith("**") and text.endswith("**"):
            text = text[2:-2]
        text = text.strip('"`').lstrip("=:+").removeprefix(r"\approx").rstrip(",;")
        text = text.removesuffix("\\\\")
        text = text.removesuffix(".")
        text = re.sub(r"\\text\{ ?([-+.\d][^{}]*)\}", r"\1", text) if text[-1:] == "}" else text
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


def closing(text: str, start: int) -> int:
    """Returns the end of the bracket of any kind that opens at `start`; -1 if it has none."""
    depth = 0
    for bracket in BRACKETS.finditer(text, start):
        found = bracket.group()
        if found in OPENING:
            depth += 1
        elif found in CLOSING:
            depth -= 1
            if depth == 0:
                return bracket.end() - 1
            if depth < 0:
                return -1
    return -1


BRACKETS = re.compile(r"\\langle|\\rangle|\\lfloor|\\rfloor|\\lceil|\\rceil|\\.|[()\[\]{}]")
OPENING = {"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"}
CLOSING = {")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"}
