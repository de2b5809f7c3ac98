"""The penalty of long completions, by hand."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import LengthReward
from steer_lightning.types import Completion


def of_length(num_tokens: int) -> Completion:
    return Completion(text="", question="", answer="", num_tokens=num_tokens, finished=True)


def test_it_falls_in_a_straight_line_from_0_to_minus_1() -> None:
    reward = LengthReward(free_tokens=10, max_tokens=14)
    lengths = (0, 10, 11, 13, 14, 99)
    assert reward([of_length(n) for n in lengths]) == [0, 0, -0.25, -0.75, -1, -1]


@pytest.mark.parametrize(("free", "most"), [(10, 10), (10, 9), (-1, 5)])
def test_a_line_that_does_not_fall_is_refused(free: int, most: int) -> None:
    with pytest.raises(ConfigError, match=rf"max_tokens = {most}: must be above free_tokens"):
        LengthReward(free, most)
