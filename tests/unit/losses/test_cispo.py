"""Bounded weights without gradient, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.losses import CISPO, Clip, PolicyGradient, ScoreFunction, TokenMean
from tests.unit.losses.helpers import MOVED, inputs, slope


def test_weights_are_bounded_and_no_token_is_left_out() -> None:
    given = inputs(**MOVED)
    loss = PolicyGradient(objective=CISPO(low=0.2, high=0.2), aggregation=TokenMean())
    # ratios 1.5, 1.1 and 0.5, 0.9, 1.5 become 1.2, 1.1 and 0.8, 0.9, 1.2; advantages 2 and -1
    expected = torch.tensor([[-2 * 1.2, -2 * 1.1, 0.0], [0.8, 0.9, 1.2]]) / 9
    torch.testing.assert_close(slope(loss, given), expected)
    clip = PolicyGradient(objective=Clip(low=0.2, high=0.2), aggregation=TokenMean())
    assert (slope(clip, given)[:, 0] == 0).all(), "a clip leaves these tokens out"
    output = loss(given)
    gains = 2 * (1.2 * -1 + 1.1 * -2) - (0.8 * -3 + 0.9 * -0.5 + 1.2 * -0.5)
    assert output.loss.item() == pytest.approx(-gains / 9)
    assert output.metrics["clip_share"].item() == pytest.approx(3 / 9)


def test_without_a_lower_bound_only_large_weights_are_bounded() -> None:
    loss = PolicyGradient(objective=CISPO(high=0.3), aggregation=TokenMean())
    expected = torch.tensor([[-2 * 1.3, -2 * 1.1, 0.0], [0.5, 0.9, 1.3]]) / 9
    torch.testing.assert_close(slope(loss, inputs(**MOVED)), expected)


def test_a_token_that_only_a_hint_made_unlikely_has_a_bounded_weight() -> None:
    """Its ratio is 0.5 / 1e-4 = 5000: `Clip` bounds it for advantages above 0 alone."""
    odds = torch.tensor([[5000.0, 1.0, 1.0], [5000.0, 1.0, 1.0]])
    given = inputs(old_logprobs=inputs().logprobs.detach() - odds.log())  # advantages 2 and -1
    by_clip = slope(PolicyGradient(objective=Clip(), aggregation=TokenMean()), given)[:, 0]
    torch.testing.assert_close(by_clip, torch.tensor([0.0, 5000.0]) / 9)
    bounded = slope(PolicyGradient(objective=CISPO(), aggregation=TokenMean()), given)[:, 0]
    torch.testing.assert_close(bounded, torch.tensor([-2 * 2.0, 2.0]) / 9)


def test_before_the_policy_has_moved_it_has_the_gradient_of_the_score() -> None:
    own = PolicyGradient(objective=CISPO(), aggregation=TokenMean())
    plain = PolicyGradient(objective=ScoreFunction(), aggregation=TokenMean())
    torch.testing.assert_close(slope(own, inputs()), slope(plain, inputs()))


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ({"low": 0.0}, r"CISPO\.low = 0\.0: must be above 0 and at most 1"),
        ({"low": 1.5}, r"CISPO\.low = 1\.5"),
        ({"high": 0.0}, r"CISPO\.high = 0\.0: must be above 0 and finite"),
        ({"high": float("inf")}, r"CISPO\.high = inf"),
    ],
)
def test_bounds_out_of_range(bounds: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        CISPO(**bounds)
