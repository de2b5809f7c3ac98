"""The curriculum, with rates and chances worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.data import ByPassRate


def test_pass_rates_and_chances_by_hand() -> None:
    order = ByPassRate(floor=0.05, decay=0.5, passes_at=0.5)
    order.start(4, 0)
    assert order.weights().tolist() == pytest.approx([0.3] * 4), "nothing is known: all alike"
    nan = float("nan")
    order.record([0, 2, 3], torch.tensor([[1.0, 0.5, 0.4, 0.0], [1.0] * 4, [nan, nan, 0.0, 1.0]]))
    assert order.rates.tolist() == pytest.approx([0.5, nan, 1.0, 0.5], nan_ok=True)
    # 1/4, 0 and 1/4, and their mean 1/6 for the one not measured
    assert order.weights().tolist() == pytest.approx([0.3, 1 / 6 + 0.05, 0.05, 0.3])
    order.record([0, 2], torch.tensor([[1.0] * 4, [nan] * 4]))
    assert order.rates.tolist() == pytest.approx([0.75, nan, 1.0, 0.5], nan_ok=True)


def test_prompts_come_up_in_proportion_to_their_weights() -> None:
    order = ByPassRate(floor=0.05)
    order.start(4, 1)
    order.record([0, 1, 2, 3], torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))
    draws = [order.take(1)[0] for _ in range(4000)]
    shares = [draws.count(k) / len(draws) for k in range(4)]
    expected = [0.3 / 0.7, 0.05 / 0.7, 0.05 / 0.7, 0.3 / 0.7]
    assert shares == pytest.approx(expected, abs=0.025)  # three standard deviations
    assert sorted(order.take(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("settings", [{"floor": 0.0}, {"decay": 1.0}, {"decay": -0.1}])
def test_settings_of_the_curriculum(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"data.order.{next(iter(settings))}"):
        ByPassRate(**settings)
