"""The two-part code of the vectors' description length, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from description_length import answer_bits, break_even


def test_bits_of_an_answer_by_hand() -> None:
    assert answer_bits(1.0) == 0
    assert answer_bits(0.0, 8) == 3, "always wrong: only the answer is sent"
    assert answer_bits(0.5, 8) == 1 + 0.5 * 3
    # H(0.25) = 0.5 + 0.75 log2(4 / 3)
    assert answer_bits(0.25, 4) == pytest.approx(0.8112781 + 0.75 * 2)


def test_vectors_pay_off_from_a_number_of_problems_on() -> None:
    assert break_even(1000, 0.25, 1.0) == pytest.approx(1000 / answer_bits(0.25))
    assert break_even(1000, 0.5, 0.5) is None
    assert break_even(1000, 0.5, 0.4) is None
