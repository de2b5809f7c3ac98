"""Rewards for the form and the length of a completion."""

from __future__ import annotations

from steer_lightning.rewards import FormatReward, LengthReward
from tests.unit.rewards.helpers import completion


def test_format_and_length() -> None:
    forms = [r"\boxed{1}", r"\boxed{1", r"\boxed{}", "1", r"\boxed{\frac{1}{2}} so"]
    assert FormatReward()([completion(form) for form in forms]) == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert FormatReward("^a.b$")([completion("a\nb")]) == [1.0]
    lengths = [completion("", num_tokens=n) for n in (10, 20, 25, 30, 99)]
    assert LengthReward(20, 30)(lengths) == [0.0, 0.0, -0.5, -1.0, -1.0]
