"""One ratio for a whole completion, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.losses import PolicyGradient, SequenceClip, SequenceMean
from tests.unit.losses.helpers import MOVED, inputs, slope


def test_a_ratio_of_whole_completions_by_hand() -> None:
    loss = PolicyGradient(objective=SequenceClip(low=0.2, high=0.2), aggregation=SequenceMean())
    first, second = (1.5 * 1.1) ** (1 / 2), (0.5 * 0.9 * 1.5) ** (1 / 3)  # 1.28 and 0.877
    output = loss(inputs(**MOVED))
    assert output.loss.item() == pytest.approx(-(2 * 1.2 - second) / 4)
    assert output.metrics["clip_share"].item() == pytest.approx(2 / 9)
    # the first completion is cut as a whole; the second one's tokens share its slope
    expected = torch.tensor([[0.0, 0.0, 0.0], [second / 12] * 3])
    torch.testing.assert_close(slope(loss, inputs(**MOVED)), expected)
    loose = PolicyGradient(objective=SequenceClip(low=0.2, high=0.5), aggregation=SequenceMean())
    expected[0, :2] = -2 * first / 8
    torch.testing.assert_close(slope(loose, inputs(**MOVED)), expected)
