"""Figures are rounded to what can be read."""

from __future__ import annotations

import math

import pytest

from steer_lightning.system.figures import rounded

SHOWN = {
    0.0: "0",
    0.5: "0.5",
    0.0625: "0.0625",
    0.004123: "0.00412",
    0.0010049: "0.001",
    0.00025: "2.5e-4",
    -1.25e-7: "-1.2e-7",
    0.19726: "0.197",
    2.005: "2",
    -12.345: "-12.3",
    999.9: "1,000",
    1234.5: "1,234",
    1235.5: "1,236",
    1e6: "1,000,000",
}
"""Halves that are exact go to the even digit."""


@pytest.mark.parametrize(("value", "text"), SHOWN.items())
def test_three_digits_count(value: float, text: str) -> None:
    assert rounded(value) == text


def test_what_is_no_number_is_told() -> None:
    assert (rounded(math.nan), rounded(-math.inf)) == ("nan", "-inf")
