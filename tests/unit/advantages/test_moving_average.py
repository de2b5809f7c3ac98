"""A moving average as the baseline, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.advantages import MovingAverage

NAN = float("nan")


def test_a_moving_average_by_hand() -> None:
    estimator = MovingAverage(decay=0.5)
    assert estimator(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0, 0.0]]  # nothing seen: b = 0
    assert estimator.baseline == 0.5  # not 0.25: the start at 0 is taken out
    assert estimator(torch.tensor([[1.0, NAN]])).tolist() == [[0.5, 0.0]]
    # 0.5 * 0.25 + 0.5 * 1 = 0.625, over 1 - 0.5^2
    assert estimator.baseline == pytest.approx(0.625 / 0.75)
    assert estimator(torch.tensor([[NAN, NAN]])).tolist() == [[0.0, 0.0]]
    assert estimator.baseline == pytest.approx(0.625 / 0.75), "a batch without a score is none"
    again = MovingAverage(decay=0.5)
    again.load_state_dict(estimator.state_dict())
    rewards = torch.rand(2, 3)
    assert torch.equal(again(rewards), estimator(rewards))
    for decay in (-0.1, 1.0, NAN):
        with pytest.raises(ConfigError, match="decay"):
            MovingAverage(decay)
