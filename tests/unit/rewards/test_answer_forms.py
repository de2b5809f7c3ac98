r"""The table of forms: which answers are right for a gold answer, and which are wrong."""

from __future__ import annotations

import time

import pytest

from steer_lightning.rewards import MathReward
from steer_lightning.rewards.answer_forms import asks_for_percentage, is_equal, is_readable
from steer_lightning.rewards.answer_in_text import find_answer
from steer_lightning.rewards.answer_numbers import read_number
from steer_lightning.rewards.answer_text import tidy
from steer_lightning.types import Completion
from tests.unit.rewards.helpers import Table, score

FORMS: Table = {
    # gold answer: (right, wrong)
    "18": (
        ("18", "18.", "= 18", "x = 18", "18.0", "+18", "$18$", r"\(18\)", "{18}", "**18**"),
        ("-18", "19", "1.8", "18!", "18, 19", "18 or 19", "(18, 18)", "18 squared", "18 x"),
    ),
    "204": (
        ("204", r"\bf 204", r"{\bf 204}", r"\mathbf{204}", r"\text{(B)}\ 204", r"204\\"),
        (r"204\%", "204_5", "204 million"),
    ),
    "7": (
        (
            "7 eggs",
            "7 dollars",
            r"\$7",
            r"7\text{ cm}",
            "7 m",
            "7 boxes of cookies",
            r"\frac{14}{2}",
        ),
        ("7t", "7x", "7 dozen", "7 percent", "7:00", "seven or eight", "eggs", ""),
    ),
    "-5": (("-5", "\N{MINUS SIGN}5", "- 5", "-5.00"), ("5", "--5", "5-")),
    "2220": (("2,220", r"2\,220", "2 220", "2{,}220", r"2,\!220", "2.22e3"), ("2, 220", "2.220")),
    r"\$32,\!348": (("32348", "$32,348", r"\$32{,}348.00", "32,348 dollars"), ("32,349", "32")),
    "0.5": ((".5", r"\frac{1}{2}", r"\frac12", "1/2", r"50\%"), ("5", "0.05", r"5\%")),
    r"\frac{1}{3}": (
        ("1/3", r"\dfrac13", r"\frac{2}{6}", r"0.\overline{3}", "0.333333", r"\frac{1}{3}."),
        ("0.33", "3", r"-\frac{1}{3}", r"\frac{1}{3}\%"),
    ),
    r"\frac{9}{5}": (
        (r"1\frac{4}{5}", "1 4/5", r"1 \frac45", "1.8", r"\frac95"),
        (r"1\frac{5}{4}", "14/5", r"\frac{5}{9}"),
    ),
    "1\\frac{4}{5}": ((r"\frac{9}{5}", "9/5", "1.8"), (r"\frac{4}{5}", "1.45")),
    "4.5e33": (
        (
            r"4.5 \times 10^{33}",
            "4.5e+33",
            "4.5E33",
            r"4.5\cdot10^{33}",
            "4.5\N{MULTIPLICATION SIGN}10^33",
        ),
        ("4.5e32", r"4.5 \times 10^{-33}", "4.6e33", "4.5", "10^{33}"),
    ),
    "1.70e4": (("17000", "17,000", r"1.7 \times 10^4", "1.7e4 kg"), ("16999", "1.7")),
    r"8.224 \times 10^{-19}": (("8.224e-19",), (r"8.2 \times 10^{-22}", "0", "8.223e-19")),
    r"10\%": (
        ("10%", "10", "10 percent", r"10\text{ percent}", "0.1"),
        (r"1000\%", r"1\%", "0.01"),
    ),
    r"90^\circ": (
        (
            "90",
            "90\N{DEGREE SIGN}",
            r"90\degree",
            r"90^{\circ}",
            "90 degrees",
            r"90\text{ degrees}",
        ),
        (r"91^\circ", "90 radians", r"90\%"),
    ),
    r"5.4 \text{ cents}": (
        ("5.4", "5.4 cents", r"5.4\text{ cent}"),
        ("5.4 dollars", r"\$5.4", "54"),
    ),
    r"15\mbox{ cm}^2": (
        ("15", "15 cm^2", r"15\text{ cm}^2", "15 square centimeters", r"15\,\mathrm{cm}^{2}"),
        ("15 cm", "15 cm^3", "15 m^2", "16"),
    ),
    r"\frac{270}7\text{ degrees}": ((r"\frac{270}{7}", r"38\frac{4}{7}"), (r"\frac{7}{270}",)),
    r"\sqrt{2}": (("1.414214", "2^{1/2}", r"\sqrt2", "√2", "sqrt(2)"), ("1.41", "2", r"-\sqrt{2}")),
    r"3\sqrt{13}": (
        (r"\sqrt{117}", r"3 \cdot \sqrt{13}", "3*sqrt(13)"),
        (r"\sqrt{13}", r"3\sqrt{12}"),
    ),
    "2\\pi": (("2π", "2pi", r"\pi \cdot 2"), ("2", r"\pi", r"2\pi r", "6.28")),
    "204_5": (
        ("204_{5}", "204", r"(204)_5", r"204_{\text{five}}", "204 (base 5)"),
        ("204_6", "54", "203_5"),
    ),
    r"\text{June 20}": (
        ("June 20", "20 June", "June 20th", r"\textbf{June 20}"),
        ("June 21", "July 20"),
    ),
    r"\text{Evelyn}": (
        ("Evelyn", "evelyn", r"\textbf{Evelyn}", "Evelyn."),
        ("Alice", r"\text{Eve}"),
    ),
    r"\text{(C)}": (
        ("C", "(C)", r"\text{C}", r"\mathrm{(C)}", r"\textbf{(C) } 18"),
        ("D", "(D)", "3", r"\textbf{(D)} 18"),
    ),
    "3:00": (
        ("3:00", "3 : 00", "3:00 PM", r"3\!:\!00 \text{ a.m.}"),
        ("4:00", "3:30", "3", "0:00"),
    ),
    "3:00 PM": (("3:00 p.m.", "3 PM", "15:00", "3:00"), ("3:00 AM", "4:00 PM")),
    "3:2": ((r"\frac{3}{2}", "6:4", "3 : 2", "3 to 2", "1.5"), ("2:3", "3:2:1", r"\frac{2}{3}")),
    "(1,2)": (
        ("(1, 2)", r"\left(1,\,2\right)", "1, 2", "x=1, y=2", "(x,y) = (1,2)", "1 < x < 2"),
        (r"\{1,2\}", "(2,1)", "2, 1", "[1,2]", "(1,2]", "(1,2,3)", r"1 \le x \le 2", "1"),
    ),
    r"\{1,2\}": (
        (r"\{2, 1\}", "1, 2", "2 and 1", r"\lbrace 1,2 \rbrace"),
        ("(1,2)", "[1,2]", "1", r"\{1\}"),
    ),
    "1,-2": (
        (
            "-2, 1",
            "1 and -2",
            r"x=1 \text{ or } x=-2",
            r"\{1,-2\}",
            "1; -2",
            r"$x_1 = 1, x_2 = -2$",
        ),
        ("1", "-2", "1, 2", "1, -2, 3", "-1"),
    ),
    r"1 \pm \sqrt{19}": (
        (r"1+\sqrt{19}, 1-\sqrt{19}", r"\{1 \pm \sqrt{19}\}"),
        (r"1+\sqrt{19}", "1"),
    ),
    "[-2,7]": (
        (r"x \in [-2,7]", r"-2 \le x \le 7", r"7 \geq x \geq -2", r"\{x \mid -2 \leq x \leq 7\}"),
        ("(-2,7)", "[-2,7)", r"-2 < x \le 7", "[-2,8]", r"\{-2,7\}", r"x \le 7"),
    ),
    r"(-\infty, 5]": (
        (r"x \le 5", "x ≤ 5", r"5 \ge x", "(-∞,5]"),
        ("x < 5", r"x \ge 5", r"(-\infty,5)"),
    ),
    r"(0,9) \cup (9,36)": (
        (r"(9,36) \cup (0,9)", r"0<x<9 \text{ or } 9<x<36", r"x \in (0,9) \cup (9,36)"),
        ("(0,36)", r"(0,9) \cap (9,36)", r"(0,9] \cup (9,36)", "(0,9)"),
    ),
    "x > 3": ((r"(3, \infty)", "3 < x"), (r"x \ge 3", "y > 3", "x < 3", "3")),
    "x=5": (("5", "x = 5", "5."), ("y=5", "x=-5", "x > 5")),
    "y=2x+3": (("2x+3", "y = 3 + 2x", "2x + 3 = y", "2x-y+3=0"), ("y=2x-3", "z=2x+3", "y=3x+2")),
    r"a=-\frac{5}{4}, b=\frac{3}{4}": (
        ("b=0.75, a=-1.25", r"\left(-\frac54, \frac34\right)", "a=-5/4 and b=3/4"),
        (r"a=\frac{3}{4}, b=-\frac{5}{4}", r"\left(\frac34, -\frac54\right)"),
    ),
    "(0,1),(1,0)": (("(1,0), (0,1)", "(0,1) and (1,0)"), ("(0,1)", "(0,1),(0,1)")),
    "3t": (("3t", "3 t", r"3 \cdot t"), ("3", "3s", "3m", "t")),
    "0": (
        ("5-5", r"\sqrt{2}-\sqrt{2}", "-6+5+1"),
        ("5-4", r"10^{-30}", r"\frac{\sqrt{2}}{10^{30}}"),
    ),
    "R+r": (("r+R",), ("2r", "2R", "x+r")),
    "\\Omega": (("\\Omega",), ("\\omega",)),
    "10": (("2(5)", "(2)(5)", "2(2)(2.5)", r"2 \cdot 5"), ("7(3)", "(5)(5)")),
    r"\cot x": (("cos(x)/sin(x)", r"\frac{\cos x}{\sin x}"), (r"\tan x", r"\cot y")),
    "2k+2": (("2(k+1)", "2 + 2k"), ("2k", "2n+2", "2k-2")),
    "x+y=5": (("y = 5-x", "2x+2y=10", "x+y-5=0", "5 = x+y"), ("x-y=5", "x+y=6", "x+z=5")),
    "6-5i": (("-5i+6", r"6 - 5 \cdot i", "6 - 5 i"), ("6+5i", "6", "-6-5i")),
    r"\begin{pmatrix} 1/5 \\ -2 \end{pmatrix}": (
        (
            r"\begin{bmatrix} 0.2 \\ -2 \end{bmatrix}",
            r"\left(\begin{array}{c} \frac15 \\[4pt] -2 \end{array}\right)",
        ),
        (r"\begin{pmatrix} 1/5 & -2 \end{pmatrix}", r"\begin{pmatrix} -2 \\ 1/5 \end{pmatrix}"),
    ),
    "41,000": (("41000", "41,000.0"), ("41,000 x", r"41,000\pi", "41")),
    # letters that are no product, and marks
    r"\angle ABC": ((r"\angle CBA",), (r"\angle ACB", "70")),
    **{
        gold: ((rf"\text{{{gold}}}",), (wrong,)) for gold, wrong in (("HTH", "HHT"), ("SAS", "SSA"))
    },
    **{gold: ((gold.lower(),), (wrong,)) for gold, wrong in (("Tanya", "Tanay"), ("Max", "Mxa"))},
    "no": (("No", r"\text{no}"), ("on", "yes")),
    "XVI": ((), ("XIV",)),
    "ab": (("ba", "b a"), ("a+b", "a")),
    "f'(x)": ((r"f^{\prime}(x)",), ("f(x)", "f''(x)")),
    "y''+y=0": (("y+y''=0", "2y''+2y=0"), ("y+y=0", "y'+y=0")),
    "A'": ((r"A^\prime",), ("A", "B'", "A''")),
    r"\mathbf{A}^T\mathbf{A}": (("A^{T}A",), (r"\mathbf{A}\mathbf{A}", "A^T", "AB")),
    # degrees within a function
    r"\cos 20^\circ": ((r"\cos(20^\circ)", r"\sin 70^\circ"), (r"\cos 20", r"\cos 21^\circ")),
    r"\tan 1^\circ": ((r"\tan 1^{\circ}",), (r"\tan 1", r"\tan 45^\circ")),
    r"\sqrt3": ((r"\tan 60^\circ",), (r"\tan 60", r"\tan 30^\circ")),
    "1": ((r"\tan 45^\circ", r"2\sin 30^\circ"), (r"\tan 45", r"\sin 1^\circ")),
    # ratios that may be times, and times that are no ratios
    "1:10": (("2:20", "1 : 10", r"\frac{1}{10}"), ("1:11", "2:10")),
    "5:12": (("10:24",), ("12:5", "5:13")),
    "10:30": (("10:30 AM",), ("1:3", "10:31", r"\frac13")),
    "3:45": (("3:45 p.m.",), (r"\frac{1}{15}", "1:15")),
    # lists of large numbers, and of equal ones
    "1200, 1500": (("1,200 and 1,500", "1,500; 1,200"), ("1,200", "1, 200, 1, 500")),
    "(1200, 1500)": (("(1,200, 1,500)",), ("(1,500, 1,200)", "(1,200)")),
    "(1,200),(3,400)": (("(1, 200), (3, 400)",), ("(1,201),(3,400)",)),
    "1,100,200": (("1, 100, 200",), ("1,100",)),
    "2,2,3": (("2, 3, 2", r"\{2,3\}"), ("2,3", "2,3,3")),
    "2,3": (("3,2",), ("2,3,3", "2,2,3")),
    # vectors, words, signs
    r"\begin{pmatrix}1\\2\end{pmatrix}": (
        ("(1,2)", r"\langle 1,2\rangle"),
        ("(2,1)", r"\{1,2\}", "[1,2]", "1,2,3"),
    ),
    r"\text{I and II}": (("I, II", "II and I"), ("I", "I and III")),
    r"\text{red, blue}": (("blue and red",), ("red", "blue and green")),
    r"\text{True, False}": (("True, False",), ("False, True",)),
    "101_2": (("101₂",), ("101_3",)),
    "FF_{16}": (("ff_{16}", "FF (base 16)"), ("FE_{16}", "255")),
    r"\frac78": (("⅞", "0.875"), ("⅝",)),
    r"\binom{5}{2}": ((r"{5 \choose 2}", "10"), (r"{5 \choose 3}+1", r"\frac{5}{2}")),
    "(-3,3)": (("|x|<3", "-3<x<3"), (r"|x|\le 3", "|x|>3")),
    r"(-\infty,-1)\cup(1,\infty)": (("|x|>1",), ("|x|<1", r"|x|\ge 1")),
    "15": ((r"\text{The answer is } 15", "Answer: 15", r"\therefore 15"), ("The answer is 16",)),
}

RIGHT = [(gold, answer) for gold, (right, _) in FORMS.items() for answer in (gold, *right)]
WRONG = [(gold, answer) for gold, (_, wrong) in FORMS.items() for answer in wrong]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right_forms(gold: str, answer: str) -> None:
    assert score(answer, gold) == 1.0


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong_forms(gold: str, answer: str) -> None:
    assert score(answer, gold) == 0.0


ASKING = (
    *("What percentage of the class is that?", "What percent is left.", "What % of 3.5 is that?"),
    *("Express it as a percent", "By what per cent does it grow? Round down.", "what PERCENTAGE"),
    *("What percentage did Mr. Smith spend?", "What percent of the U.S. voters is that?"),
    *("What is Bob's percentage of it?", "What is the class\u2019s per cent of girls?"),
    r"Find the percentage of primes. Put your answer in \boxed{}.",
)
NOT_ASKING = (
    *("", "What does he pay with 10% off?", "He got 20 percent. How many?", r"With 5\% tax?"),
    *("A 10-percent tax is added. What is due?", "The percentage is known. How many are there?"),
    *("What is 10  percent of 6?", "10 \u00a0% of 6?", r"What is 20 $\%$ of 6?", "$10$% of 6?"),
    *("What is twenty-five percent of 8?", r"$p\%$ of 120 is what?", r"10\,\% of 6?"),
)


@pytest.mark.parametrize("question", ASKING)
def test_a_percentage_that_is_asked_for_may_have_its_sign(question: str) -> None:
    """The gold answers of GSM8K are numbers without it."""
    for answer in (r"60\%", "60 percent", "60%", "60"):
        assert is_equal(answer, "60", question)
    for answer in (r"61\%", r"6000\%", "0.6"):
        assert not is_equal(answer, "60", question)
    assert not is_equal(r"50\%", "0.5", question)
    assert is_equal("60", r"60\%", question)
    assert not is_equal(r"6000\%", r"60\%", question)


@pytest.mark.parametrize("question", NOT_ASKING)
def test_another_number_is_no_percentage(question: str) -> None:
    assert not is_equal(r"60\%", "60", question)
    assert is_equal("60", "60", question)
    assert is_equal(r"60\%", "0.6", question)


def test_hostile_questions_take_no_time() -> None:
    start = time.perf_counter()
    for text in ("a%" * 500, "?" * 999, "% " * 5000, "x." * 500, "-" * 900 + "%?", "$" * 999 + "%"):
        asks_for_percentage(text)
    assert time.perf_counter() - start < 5


def test_what_can_be_a_gold_answer() -> None:
    for gold in ("18", r"\text{June 20}", "3:00", "204_5", "x+1", "(1,2)", r"\emptyset"):
        assert is_readable(gold)
    assert not is_readable("")
    assert not is_readable("$$")
    assert not is_readable("1" * 10_000)


def test_tidying_changes_nothing_that_is_tidy() -> None:
    for answer, _ in RIGHT + WRONG:
        once = tidy(answer)
        assert tidy(once) == once


HOSTILE = [
    *(sign * 5000 for sign in ("{", "}", "(", "$", "\\", " ", ",", ".", "-", "_", "^", "%", "=")),
    *(
        sign * 1600
        for sign in ("1,", "1 ", "x=", r"\{", r"\,", "x<", "1:", " and", "1_", "1/", ",000")
    ),
    *(r"\text{" * 800, r"\text{a}" * 600, r"\frac{1}{" * 500, r"\mathbf{" * 600, r"\boxed{" * 800),
    *("1 " + "a" * 4000, "1 " + "a " * 2000, "(" + "1," * 2000 + ")", r"\pm " * 1000, "1e" * 2000),
    *("1" + " 111" * 1200, "1" + ",111" * 1200 + "x", r"\text{ cm}^2" * 400, r"1\text{a}/" * 400),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_reading_takes_no_time_whatever_the_text_is(text: str) -> None:
    start = time.process_time()
    for gold in ("18", "1,-2", "(1,2)", r"5\text{ cm}", r"\text{June 20}"):
        completion = Completion(
            text=rf"\boxed{{{text}}}", question="", answer=gold, num_tokens=1, finished=True
        )
        MathReward().quickly(completion)
        find_answer(completion.text)
        read_number(tidy(text))
    assert time.process_time() - start < 2.0
