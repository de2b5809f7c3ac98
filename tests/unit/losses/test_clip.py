"""The clipped objective, with numbers worked by hand."""

from __future__ import annotations

import math
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


@pytest.mark.parametrize("advantage", [2.0, 0.0])
@pytest.mark.parametrize("objective", [Clip(), SequenceClip()], ids=lambda x: type(x).__name__)
def test_a_ratio_beyond_float32_is_clipped_like_any_other(objective: Any, advantage: float) -> None:
    """exp(200) is infinite in float32, and 0 times infinity is no number."""
    logprobs = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -0.5, -0.5]], requires_grad=True)
    old = torch.tensor([[-201.0, -202.0, -9.0], [-3.0, -0.5, -0.5]])
    given = inputs(logprobs=logprobs, old_logprobs=old, advantages=torch.tensor([advantage, -1.0]))
    gains, metrics = objective.gains(given)
    assert gains[0, :2].tolist() == pytest.approx([(1 + objective.high) * advantage] * 2)
    assert metrics["clip_share"][0, :2].tolist() == [float(advantage > 0)] * 2
    (found,) = torch.autograd.grad(gains[given.mask].sum(), logprobs)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0], [-1.0, -1, -1]]))


def test_the_gain_of_a_bad_token_has_no_bound() -> None:
    log_ratios = torch.tensor([[10.0, 89.0, 0.0], [0.0, 0.0, 0.0]])
    old = inputs().logprobs.detach() - log_ratios
    gains, _ = Clip().gains(inputs(old_logprobs=old, advantages=torch.tensor([-1.0, -1.0])))
    assert gains[0].tolist() == [pytest.approx(-math.exp(10), rel=1e-5), -math.inf, -1.0]
