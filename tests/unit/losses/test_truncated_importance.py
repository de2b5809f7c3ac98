"""Importance weights, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.losses import PolicyGradient, TruncatedImportance
from tests.unit.losses.helpers import inputs, slope


def test_truncated_importance_by_hand() -> None:
    ratios = torch.tensor([[0.5, 3.0, 99.0], [1.0, 2.5, 1.5]])
    given = inputs(sampling_logprobs=inputs().logprobs.detach() - ratios.log())
    loss = PolicyGradient(correction=TruncatedImportance(cap=2.0))
    expected = torch.tensor([[-2 * 0.5, -2 * 2.0, 0.0], [1.0, 2.0, 1.5]]) / 4
    torch.testing.assert_close(slope(loss, given), expected)
    assert loss(given).metrics["capped_share"].item() == pytest.approx(2 / 9)
    torch.testing.assert_close(slope(loss, inputs()), slope(PolicyGradient(), inputs()))
