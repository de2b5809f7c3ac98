"""Changes of probabilities, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.results.lens import change_of, divergence, mean_change


def test_probabilities_by_hand() -> None:
    base, steered = torch.zeros(2), torch.tensor([math.log(3), 0.0])
    change = change_of(base, steered)
    assert change.steered.tolist() == pytest.approx([0.75, 0.25])
    assert change.base.tolist() == pytest.approx([0.5, 0.5])
    assert (change.up(5), change.down(5)) == ([0], [1])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(base, steered) == pytest.approx(expected)
    mean = mean_change([change, change_of(base, base)])
    assert mean.steered.tolist() == pytest.approx([0.625, 0.375])
    assert change_of(base, base).up(5) == []


def test_a_token_that_both_models_rule_out_adds_nothing_to_their_divergence() -> None:
    base, steered = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    never = torch.tensor([-torch.inf])
    assert divergence(torch.cat([base, never]), torch.cat([steered, never])) == pytest.approx(
        divergence(base, steered)
    )
