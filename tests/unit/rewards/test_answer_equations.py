"""Named values are compared by their values, and equations are not taken for one."""

from __future__ import annotations

import pytest

from steer_lightning.rewards.answer_equations import is_name, is_quantity, sides
from tests.unit.rewards.helpers import Table, mistakes

FORMS: Table = {
    "5": (
        (
            *("x=5", "AB=5", "|AB|=5", r"\angle ABC=5^\circ", "P(A)=5", "f(3)=5", "f(x+1)=5"),
            *(
                r"\text{Area}=5",
                "Area = 5",
                r"\sin A=5",
                "a_{n+1}=5",
                "[ABC]=5",
                "|z|=5",
                r"\min = 5",
            ),
            *(r"x=\frac{10}{2}=5", "2+3=5", "n=2k=5", "P(X=1) = 5", r"\overline{AB}=5"),
            *("m+n=5", "x+y=5", "AB^2=5", "S=xy=5"),  # what was asked for
        ),
        (
            *("2x=5", "x^2=5", "x-3=5", "2=5", "0=5", "6=5", "3x-1=5", "x(x+1)=5", "e^x=5"),
            *(r"\sqrt{x}=5", r"\frac{x}{2}=5", "x=2=5", "x=5=6"),
        ),
    ),
    "4": (("x=4", "x = 2^2 = 4"), ("x^2=4",)),
    "1200": (("x=1,200", "n = 1200"), ("x=1,201", "x=1", "x=1,2")),
    "x=1200": (("x=1,200", "1,200"), ("y=1,200",)),
    "2+5=7": (("7", "7=2+5"), ("5", "2")),
    "x+y=5": (("2x+2y=10", "5=x+y"), ("5", "x=5", "y=5", "5-x")),
    "x+y+z=0": (("x+y=-z",), ("0", "z=0")),
    "xy=6": (("6=xy", "2xy=12"), ("6", "x=6")),
    "ab=1": (("ba=1",), ("1",)),
    "a+b=c": (("c=a+b",), ("c", "a+b")),
    "2x+3y=6": (("3y=6-2x",), ("6", "2x+3y")),
    "AB=5": (("5", "AB = 5"), ("AC=5", "6")),
    "P(A)=0.5": (("0.5", r"\frac12"), ("P(B)=0.5",)),
    "a:b=2:3": (("2:3",), ("3:2",)),
    "(x,y)=(1,2)": (("(1,2)", "x=1, y=2"), ("(2,1)",)),
    "y=2x+3": (("2x+3", "2x-y+3=0"), ("x=2y+3", "3")),
}


@pytest.mark.parametrize("gold", FORMS)
def test_forms(gold: str) -> None:
    assert mistakes(FORMS, gold) == []


def test_an_equation_is_split_outside_of_brackets() -> None:
    assert sides("P(X=1) = x = 5") == ["P(X=1)", "x", "5"]
    assert sides(r"\sum_{i=1}^n i") == [r"\sum_{i=1}^n i"]


def test_names_and_quantities() -> None:
    for name in ("x", "a_5", "f(3)", "AB", "area", r"\angle B", "P(A|B)", r"\theta", "(a, b)"):
        assert is_name(name), name
    for side in ("xy", "x+y", "2x", "x^2", "x(x-1)", r"\frac{x}{2}", "abc", ""):
        assert not is_name(side), side
    assert is_quantity("m+n")
    assert is_quantity("xy")
    assert not is_quantity("x^2+x")
    assert not is_quantity("e^x")
