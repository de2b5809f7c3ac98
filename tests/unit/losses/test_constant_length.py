"""Division by a constant length."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.losses import ConstantLength
from tests.unit.losses.helpers import inputs


def test_all_tokens_of_all_completions_count_the_same_whatever_their_lengths() -> None:
    assert ConstantLength(10).weights(inputs()) == 1 / 40, "of a batch of 4"
    assert ConstantLength(10).weights(inputs(num_rows=8, num_tokens=1)) == 1 / 80


def test_no_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ConstantLength\.length = 0: must be at least 1"):
        ConstantLength(0)
    assert ConstantLength(1).length == 1
