"""DAPO's mean over all tokens of a batch."""

from __future__ import annotations

from steer_lightning.losses import TokenMean
from tests.unit.losses.helpers import inputs


def test_each_token_of_the_batch_counts_the_same() -> None:
    """The batch has 9 tokens, of which the micro-batch has 5."""
    assert TokenMean().weights(inputs()) == 1 / 9
    assert TokenMean().weights(inputs(num_rows=400)) == 1 / 9
