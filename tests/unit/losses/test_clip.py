"""The clipped objective, with numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning.losses import (
    Clip,
    PolicyGradient,
    ScoreFunction,
    SequenceClip,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from tests.unit.losses.helpers import MOVED, inputs, slope


def test_the_clip_by_hand() -> None:
    loss = PolicyGradient(objective=Clip(low=0.2, high=0.2), aggregation=TokenMean())
    given = inputs(**MOVED)
    # good: 1.5 is cut to 1.2, 1.1 stays; bad: 0.5 is cut to 0.8, 0.9 and 1.5 stay
    gains = 2 * (1.2 + 1.1) - (0.8 + 0.9 + 1.5)
    output = loss(given)
    assert output.loss.item() == pytest.approx(-gains / 9)
    assert output.metrics["clip_share"].item() == pytest.approx(2 / 9)
    # what is cut teaches nothing; the rest has gradient ratio * A
    expected = torch.tensor([[0.0, -2 * 1.1, 0.0], [0.0, 0.9, 1.5]]) / 9
    torch.testing.assert_close(slope(loss, given), expected)


def test_clip_higher_leaves_room_above_alone() -> None:
    loss = PolicyGradient(objective=Clip(low=0.2, high=0.6), aggregation=TokenMean())
    expected = torch.tensor([[-2 * 1.5, -2 * 1.1, 0.0], [0.0, 0.9, 1.5]]) / 9
    torch.testing.assert_close(slope(loss, inputs(**MOVED)), expected)


@pytest.mark.parametrize("objective", [Clip(), SequenceClip()], ids=lambda x: type(x).__name__)
def test_before_the_policy_has_moved_a_clip_has_the_gradient_of_the_score(objective: Any) -> None:
    # every token of a completion has the same gain, so SequenceClip's mean ratio makes no other
    for aggregation in (SequenceSum(), SequenceMean(), TokenMean()):
        clipped = PolicyGradient(objective=objective, aggregation=aggregation)
        plain = PolicyGradient(objective=ScoreFunction(), aggregation=aggregation)
        torch.testing.assert_close(slope(clipped, inputs()), slope(plain, inputs()))
