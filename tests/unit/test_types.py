"""What the carriers compute themselves."""

from __future__ import annotations

import torch

from tests.unit.losses.helpers import inputs


def test_the_lengths_of_a_losss_rows_are_those_of_the_mask() -> None:
    assert inputs().lengths.tolist() == [2, 3]
    nothing = inputs(mask=torch.zeros(2, 3, dtype=torch.bool))
    assert nothing.lengths.tolist() == [1, 1], "nothing is divided by 0"
