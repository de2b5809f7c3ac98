"""Figures as text, rounded the same way in the terminal and on pages (`results/report/dom.js`)."""

from __future__ import annotations

import math


def rounded(value: float) -> str:
    """Returns a number with three significant digits, such as `0.25`, `1,234` and `1.2e-6`."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{float(f'{value:.3g}'):,g}"  # 999.9 is 1,000 and not 1e+03
