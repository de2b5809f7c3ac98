"""The likelihood of chosen completions, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import BestOf
from steer_lightning.losses import Likelihood, PolicyGradient, needs_of
from steer_lightning.training.update import OptimizerSteps
from tests.unit.losses.helpers import MOVED, inputs, slope

LOSS = PolicyGradient(objective=Likelihood())


def test_the_loss_is_the_mean_over_prompts_of_the_summed_log_probabilities() -> None:
    """Weight 2 of two rows, as of a group of two with one chosen, and 0 for the other."""
    given = inputs(advantages=torch.tensor([2.0, 0.0]))
    output = LOSS(given)
    first = given.logprobs[0][given.mask[0]].sum()
    assert output.loss.item() == pytest.approx(-2 * first.item() / given.num_rows)


def test_a_policy_that_has_moved_changes_nothing() -> None:
    """The weights have no ratio, so that chosen completions stay targets."""
    moved = inputs(**{**MOVED, "advantages": torch.tensor([2.0, 1.0])})
    expected = torch.tensor([[-2.0, -2.0, 0.0], [-1.0, -1.0, -1.0]]) / moved.num_rows
    torch.testing.assert_close(slope(LOSS, moved), expected)
    assert needs_of(LOSS).uses_ratio is None
    SteeringModule(loss=LOSS, advantage=BestOf(), updates=OptimizerSteps(num_passes=2))


def test_what_must_be_avoided_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective = 'Likelihood': needs advantages of at lea"):
        LOSS(inputs(advantages=torch.tensor([2.0, -0.5])))
