"""The entropy bonus."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.losses import EntropyBonus, needs_of
from tests.unit.losses.helpers import inputs


def test_costs_and_their_gradient_by_hand() -> None:
    entropy = torch.tensor([[0.5, 1.0, 9.0], [1.0, 2.0, 3.0]], requires_grad=True)
    costs, metrics = EntropyBonus(0.1).costs(inputs(entropy=entropy))
    expected = torch.tensor([[-0.05, -0.1, -0.9], [-0.1, -0.2, -0.3]])
    torch.testing.assert_close(costs, expected)
    assert torch.equal(metrics["entropy"], entropy.detach())
    assert not metrics["entropy"].requires_grad
    costs.sum().backward()
    torch.testing.assert_close(entropy.grad, torch.full((2, 3), -0.1))


def test_it_asks_for_the_entropy() -> None:
    needs = needs_of(EntropyBonus(-0.1))
    assert needs.entropy
    assert not needs.reference


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_does_nothing_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"EntropyBonus.weight = .*except 0"):
        EntropyBonus(weight)
